"""RISE: its masks, its map against the formula, its memory."""

from __future__ import annotations

import tracemalloc
from itertools import islice

import numpy as np
import pytest

from helpers.small_net import MEAN, small_net
from helpers.torch_backend import TorchBackend
from klieg.images.batch import Batch
from klieg.kernels.normalisation import normalise
from klieg.methods import model as passes_module
from klieg.methods.rise import random_masks, rise

OPTIONS = {"cells": 4, "visible": 0.5, "seed": 3}


def batch(targets: list[int], owner: list[int]) -> Batch:
    count = max(owner) + 1
    images = np.random.default_rng(1).uniform(0, 255, (count, 3, 32, 32)).astype(np.float32)
    return Batch(images, np.array(targets), np.array(owner))


def test_masks() -> None:
    masks = np.stack(list(islice(random_masks(30, cells=7, visible=0.3, seed=0), 3000)))
    assert masks.shape == (3000, 30, 30)
    assert masks.dtype == np.float32
    assert masks.min() == 0
    assert masks.max() == 1
    # Standard error of a pixel's mean 0.008; the border is no darker than the centre.
    np.testing.assert_allclose(masks.mean(axis=0), 0.3, atol=0.05)
    assert len(np.unique(masks[:, 15, 15])) > 20  # soft, at random places


def test_equals_the_formula() -> None:
    """One mask after the other, one probability after the other."""
    backend = TorchBackend(small_net())
    question = batch([2, 0, 4], [0, 0, 1])  # two classes of one image
    result = rise(backend.model(), question, (32,), masks=40, **OPTIONS)
    mean = 255 * np.array(MEAN, dtype=np.float32)[:, None, None]
    for row, (owner, target) in enumerate(zip(question.image_index, question.targets, strict=True)):
        expected, shown_sum = np.zeros((32, 32)), np.zeros((32, 32))
        for mask in islice(random_masks(32, cells=4, visible=0.5, seed=3), 40):
            shown = question.images[owner] * mask + mean * (1 - mask)
            logits = backend.run(shown[None], np.array([-1]), ["logits"])[0][0].astype(np.float64)
            expected += mask * np.exp(logits[target]) / np.exp(logits).sum()
            shown_sum += mask
        assert shown_sum.min() > 0.1
        np.testing.assert_allclose(result.raw[row], expected / shown_sum, rtol=1e-4)
    assert result.targets.tolist() == [2, 0, 4]


def test_sigmoid_probabilities() -> None:
    backend, question = TorchBackend(small_net()), batch([2], [0])
    raw = rise(backend.model(probability="sigmoid"), question, (32,), masks=1, **OPTIONS).raw[0]
    mask = next(random_masks(32, cells=4, visible=0.5, seed=3))
    mean = 255 * np.array(MEAN, dtype=np.float32)[:, None, None]
    shown = question.images[:1] * mask + mean * (1 - mask)
    logit = backend.run(shown, np.array([-1]), ["logits"])[0][0, 2]
    probability = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(raw, np.where(mask > 0, probability, 0), rtol=1e-4)


def test_seed_reproduces(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, question = TorchBackend(small_net()), batch([-1, 1], [0, 1])
    first = rise(backend.model(), question, (32,), masks=50, **OPTIONS).raw
    monkeypatch.setattr(passes_module, "PIXELS_PER_PASS", 7 * 32 * 32)
    again = rise(backend.model(), question, (32,), masks=50, **OPTIONS).raw
    np.testing.assert_allclose(again, first, rtol=1e-4)
    assert max(backend.image_rows[-10:]) == 7
    other = rise(backend.model(), question, (32,), masks=50, **{**OPTIONS, "seed": 4}).raw
    assert np.abs(other - first)[0].max() > 0.1 * np.ptp(first[0])


def test_insensitive_model_gives_no_map() -> None:
    """With the published denominator the map would show which pixels the masks favoured."""
    net = small_net()
    net.head.weight.data.zero_()
    raw = rise(TorchBackend(net).model(), batch([2], [0]), (32,), masks=50, **OPTIONS).raw
    assert normalise(raw)[1].all()


def test_memory_is_flat_in_the_number_of_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's memory; 2000 masks of 64 x 64 alone would be 33 MB."""
    monkeypatch.setattr(passes_module, "PIXELS_PER_PASS", 20 * 64 * 64)

    class Black(TorchBackend):
        def run(self, images, targets, outputs):  # type: ignore[no-untyped-def]
            return [np.zeros((len(images), 5), dtype=np.float32)]

    model = Black(small_net()).model()
    question = Batch.single(np.zeros((1, 3, 64, 64), dtype=np.float32), np.array([0]))

    def peak(masks: int) -> int:
        tracemalloc.start()
        rise(model, question, (64,), masks=masks, **OPTIONS)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(20)  # fills caches
    assert peak(2000) < 1.2 * peak(40) < 6e6
