"""Methods on the gradient by the image against torch autograd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from helpers.small_net import MEAN, lively_net, small_net
from helpers.torch_backend import TorchBackend
from klieg.export.random_images import random_images
from klieg.images.batch import Batch
from klieg.methods import model as passes_module
from klieg.model_file.methods import METHODS, checked_options

MEAN_COLOUR = 255 * torch.tensor(MEAN, dtype=torch.float64).view(1, 3, 1, 1)
TOLERANCE = 1e-4
"""Relative to the largest value: float32 against float64 over five layers; measured 1e-6."""


def batch(count: int) -> Batch:
    images = np.random.default_rng(1).uniform(0, 255, (count, 3, 32, 32)).astype(np.float32)
    return Batch.single(images, np.array([3, -1, 0][:count]))


def gradient_of(backend: TorchBackend) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return d logit / d image in float64 as a function of images and classes."""

    def gradient(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        images = images.double().requires_grad_()
        score = backend.logits(images, backend.module.double())
        (result,) = torch.autograd.grad(score[torch.arange(len(images)), targets].sum(), images)
        backend.module.float()
        return result

    return gradient


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("method", ["saliency", "gradient_x_input", "integrated_gradients"])
def test_equals_autograd(method: str, count: int) -> None:
    backend, question = TorchBackend(small_net()), batch(count)
    result = METHODS[method].function(
        backend.model(), question, (32,), **checked_options(method, {})
    )
    images, targets = torch.from_numpy(question.images), torch.from_numpy(result.targets)
    gradient = gradient_of(backend)
    match method:
        case "saliency":
            expected = gradient(images, targets).abs().amax(dim=1)
        case "gradient_x_input":
            expected = ((images - MEAN_COLOUR) * gradient(images, targets)).sum(dim=1)
        case "integrated_gradients":
            total = torch.zeros_like(images, dtype=torch.float64)
            for step in range(32):
                point = MEAN_COLOUR + (step + 0.5) / 32 * (images - MEAN_COLOUR)
                total += gradient(point, targets)
            expected = ((images - MEAN_COLOUR) * total / 32).sum(dim=1)
    size = float(expected.abs().max())
    np.testing.assert_allclose(result.raw, expected.numpy(), atol=TOLERANCE * size)
    assert result.raw.shape == (count, 32, 32)


@pytest.mark.parametrize(
    ("method", "output"),
    [("guided_backprop", "guided_gradient"), ("deconvnet", "deconvnet_gradient")],
)
def test_other_rules_for_relu(method: str, output: str) -> None:
    backend, question = TorchBackend(small_net()), batch(3)
    result = METHODS[method].function(backend.model(), question, (32,))
    (gradient,) = backend.run(question.images, question.targets, [output])
    np.testing.assert_array_equal(result.raw, np.abs(gradient).max(axis=1))


def test_attributions_are_complete() -> None:
    """Integrated gradients sum to the difference of the logits between image and mean colour.

    With 2000 steps over a piecewise linear net, what is left is the kink inside each step.
    """
    backend = TorchBackend(lively_net())  # the logits of the other hardly differ
    question = Batch.single(random_images(32, channels=3, seed=0), np.array([3, -1]))
    start = np.broadcast_to(MEAN_COLOUR.numpy(), question.images.shape).astype(np.float32)
    function = METHODS["integrated_gradients"].function
    errors = []
    for steps in (1, 32, 2000):
        result = function(backend.model(), question, (32,), steps=steps)
        rows = np.arange(2), result.targets
        difference = result.logits[rows] - backend.model().logits(start)[rows]
        assert (np.abs(difference) > 0.05).all()  # logits are exact to 1e-6
        errors.append(np.abs(result.raw.sum(axis=(1, 2)) / difference - 1).max())
    assert errors[1] < 0.05
    assert errors[2] < 1e-3
    assert errors[0] > 10 * errors[2]  # one step would not do


def test_smoothgrad_is_the_mean_over_noise() -> None:
    """Against autograd on copies drawn here; the standard error of 4000 is about 2 %."""
    backend, question = TorchBackend(small_net()), batch(1)
    result = METHODS["smoothgrad"].function(
        backend.model(), question, (32,), samples=4000, noise=0.15, seed=1
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(question.images).double()
    sigma = 0.15 * (images.max() - images.min())
    noise = torch.randn((4000, 3, 32, 32), generator=generator, dtype=torch.float64)
    gradient = gradient_of(backend)(images + sigma * noise, torch.full((4000,), 3)).mean(dim=0)
    expected = gradient.abs().amax(dim=0).numpy()
    assert np.abs(result.raw[0] - expected).max() < 0.1 * expected.max()
    plain = METHODS["saliency"].function(backend.model(), question, (32,)).raw[0]
    assert np.abs(plain - expected).max() > 0.2 * expected.max()


def test_smoothgrad_without_noise_is_saliency() -> None:
    backend, question = TorchBackend(small_net()), batch(2)
    smooth = METHODS["smoothgrad"].function(
        backend.model(), question, (32,), samples=3, noise=0.0, seed=0
    )
    plain = METHODS["saliency"].function(backend.model(), question, (32,))
    np.testing.assert_allclose(smooth.raw, plain.raw, rtol=1e-4, atol=1e-9)


def test_seed_reproduces_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    function, backend = METHODS["smoothgrad"].function, TorchBackend(small_net())
    question = batch(3)

    def raw(images: slice, seed: int) -> np.ndarray:
        part = Batch.single(question.images[images], question.targets[images])
        return function(backend.model(), part, (32,), samples=10, noise=0.2, seed=seed).raw

    together = raw(slice(0, 3), 5)
    np.testing.assert_allclose(raw(slice(2, 3), 5)[0], together[2], rtol=1e-4, atol=1e-9)
    monkeypatch.setattr(passes_module, "PIXELS_PER_PASS", 4 * 32 * 32)  # parts of 4 copies
    np.testing.assert_allclose(raw(slice(0, 3), 5), together, rtol=1e-4, atol=1e-9)
    assert max(backend.image_rows[-3:]) == 4
    assert np.abs(raw(slice(0, 3), 6) - together).max() > 0.01 * together.max()
