"""PxAP, against a loop over thresholds and pixels."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError, OptionError
from klieg.evaluation.pixel_precision import PixelPrecision


def plain_score(values: list[float], on_object: list[bool], step: float) -> float:
    thresholds = [1.0] + [n * step for n in reversed(range(round(1 / step)))]
    area = recall_before = 0.0
    for threshold in thresholds:
        chosen = [hit for value, hit in zip(values, on_object, strict=True) if value >= threshold]
        if chosen:
            recall = sum(chosen) / sum(on_object)
            area += sum(chosen) / len(chosen) * (recall - recall_before)
            recall_before = recall
    return 100 * area


@pytest.mark.parametrize("step", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("levels", [3, 20, 100_000])  # few levels: ties, also on thresholds
def test_random_maps_equal_plain_counting(step: float, levels: int) -> None:
    rng = np.random.default_rng(levels)
    precision = PixelPrecision(step=step)
    values: list[float] = []
    hits: list[bool] = []
    for number in range(3):  # images of different sizes, with and without objects
        shape = (2, 5 + number, 7)
        maps = (np.round(rng.random(shape) * levels) / levels).astype(np.float32)
        objects = rng.random(shape) < maps * (number != 1)
        ignore = rng.random(shape) < 0.2
        precision.add(maps, objects, ignore=ignore)
        values += maps[~ignore].tolist()
        hits += objects[~ignore].tolist()
    assert precision.score == pytest.approx(plain_score(values, hits, step), abs=1e-9)


def test_perfect_constant_and_reversed_maps() -> None:
    objects = np.zeros((2, 6, 5), np.bool_)
    objects[0, 1:3, 1:4] = objects[1, 4, 4] = True
    share = 100 * objects.mean()
    for maps, expected in (
        (objects.astype(np.float32), 100),
        (0.2 + 0.1 * objects.astype(np.float32), 100),
        (np.full(objects.shape, 0.4, np.float32), share),
        (np.zeros(objects.shape, np.float32), share),
        (np.ones(objects.shape, np.float32), share),
        (1 - objects.astype(np.float32), share),  # all objects come last, with all pixels
    ):
        precision = PixelPrecision()
        precision.add(maps, objects)
        assert precision.score == pytest.approx(expected)


def test_batches_add_up() -> None:
    rng = np.random.default_rng(0)
    maps, objects = rng.random((6, 8, 8)).astype(np.float32), rng.random((6, 8, 8)) < 0.3
    at_once, in_parts = PixelPrecision(), PixelPrecision()
    at_once.add(maps, objects)
    for i in range(0, 6, 2):
        in_parts.add(maps[i : i + 2], objects[i : i + 2])
    assert in_parts.score == at_once.score


def test_what_cannot_be_used_is_refused() -> None:
    maps, objects = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), np.bool_)
    precision = PixelPrecision()
    precision.add(maps, objects)
    with pytest.raises(InputError, match="no pixel lies on an object"):
        _ = precision.score
    with pytest.raises(InputError, match="objects is uint8"):
        precision.add(maps, objects.astype(np.uint8))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ignore is bool of shape"):
        precision.add(maps, objects, ignore=objects[:, 1:])
    with pytest.raises(InputError, match=r"map\[None\]"):
        precision.add(maps[0], objects[0])
    with pytest.raises(InputError, match=r"0\.\.1"):
        precision.add(maps - np.float32(0.1), objects)
    for step in (0, 2, np.nan):
        with pytest.raises(OptionError, match="step"):
            PixelPrecision(step=step)
