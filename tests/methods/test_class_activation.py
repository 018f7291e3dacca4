"""The CAM family against torch autograd, at a layer with and without a constant gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.small_net import MEAN, STD, small_net
from helpers.torch_backend import TorchBackend
from klieg.errors import OptionError
from klieg.images.batch import Batch
from klieg.model_file.methods import METHODS

EARLY = 3  # after the max pool: an 8 x 8 map with a gradient that varies in space
TOLERANCE = 1e-5
"""Relative to the largest value. Float32 sums in another order; measured 1e-7 to 1e-6."""


def batch(count: int, targets: list[int]) -> Batch:
    images = np.random.default_rng(1).uniform(0, 255, (count, 3, 32, 32)).astype(np.float32)
    return Batch.single(images, np.array(targets[:count]))


def truth(method: str, backend: TorchBackend, question: Batch) -> torch.Tensor:
    """Return the raw maps [B, 32, 32] in float64 from the paper's formulas and autograd."""
    module = backend.module.double()
    layers = list(module.features)
    end = len(layers) if backend.layer is None else backend.layer + 1
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    x = (torch.from_numpy(question.images).double() / 255 - mean) / std
    a = torch.nn.Sequential(*layers[:end])(x).detach().requires_grad_()
    head = torch.nn.Sequential(*layers[end:], module.pool, torch.nn.Flatten(), module.head)
    logits = head(a)
    rows = torch.arange(len(x))
    targets = torch.from_numpy(question.targets)
    targets = torch.where(targets < 0, logits.argmax(dim=1), targets)
    score = logits[rows, targets]
    (w,) = torch.autograd.grad(score.sum(), a)
    match method:
        case "gradcam":
            cells = (w.mean(dim=(2, 3), keepdim=True) * a).sum(dim=1)
        case "hirescam" | "linear_approx":
            cells = (w * a).sum(dim=1)
        case "layercam":
            cells = (w.clamp(min=0) * a).sum(dim=1)
        case "normgrad":
            cells = (a**2).sum(dim=1).sqrt() * (w**2).sum(dim=1).sqrt()
        case "gradcam++":  # the published form, with the factor exp(score) in it
            y = score.exp()[:, None, None, None]
            first, second, third = y * w, y * w**2, y * w**3
            sums = a.sum(dim=(2, 3), keepdim=True)
            alpha = second / (2 * second + sums * third).where(second != 0, torch.ones_like(w))
            weights = (alpha * first.clamp(min=0)).sum(dim=(2, 3), keepdim=True)
            cells = (weights * a).sum(dim=1) / y[:, 0]
        case "cam":
            cells = (module.head.weight[targets][:, :, None, None] * a).sum(dim=1)
        case "excitation_backprop" | "contrastive_excitation":

            def winners(sign: int) -> torch.Tensor:
                share = a * (sign * module.head.weight[targets]).clamp(min=0)[:, :, None, None]
                return share / share.sum(dim=(1, 2, 3), keepdim=True)

            cells = winners(1).sum(dim=1)
            if method == "contrastive_excitation":
                cells = cells - winners(-1).sum(dim=1)
    module.float()
    return torch.nn.functional.interpolate(
        cells[:, None], (32, 32), mode="bilinear", align_corners=False
    )[:, 0].detach()


AT_ANY_LAYER = ("gradcam", "gradcam++", "hirescam", "layercam", "normgrad", "linear_approx")
AT_THE_END = (*AT_ANY_LAYER, "cam", "excitation_backprop", "contrastive_excitation")


@pytest.mark.parametrize("several_targets", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("method", "layer"),
    [*((m, None) for m in AT_THE_END), *((m, EARLY) for m in AT_ANY_LAYER)],
)
def test_equals_torch(method: str, layer: int | None, count: int, several_targets: bool) -> None:
    backend = TorchBackend(small_net(), layer=layer, several_targets=several_targets)
    question = batch(count, [3, -1, 0])
    result = METHODS[method].function(backend.model(), question, (32,))
    expected = truth(method, backend, question).numpy()
    assert result.raw.dtype == np.float32
    np.testing.assert_allclose(result.raw, expected, atol=TOLERANCE * np.abs(expected).max())
    assert (result.targets >= 0).all()
    assert result.targets[0] == 3


def test_negative_activations_do_not_divide_by_zero() -> None:
    """With W = 1 and a channel that sums to -2 the slope of Grad-CAM++ is exactly 0."""

    class Fixed(TorchBackend):
        def run(self, images, targets, outputs):  # type: ignore[no-untyped-def]
            activation = np.full((1, 2, 1, 2), -1, dtype=np.float32)
            gradient = np.ones((1, 2, 1, 1), dtype=np.float32)
            return [np.zeros((1, 5), dtype=np.float32), activation, gradient]

    model = Fixed(small_net()).model()
    result = METHODS["gradcam++"].function(model, batch(1, [0]), (32,))
    assert np.isfinite(result.raw).all()


def test_cam_needs_a_pool_and_one_linear_layer() -> None:
    function = METHODS["cam"].function
    with pytest.raises(OptionError, match=r"varies in space.*'gradcam'"):
        function(TorchBackend(small_net(), layer=EARLY).model(), batch(1, [0]), (32,))
    net = small_net()
    net.head = torch.nn.Sequential(
        torch.nn.Linear(16, 16), torch.nn.Sigmoid(), torch.nn.Linear(16, 5)
    )
    with pytest.raises(OptionError, match="varies with the image"):
        function(TorchBackend(net).model(), batch(1, [0]), (32,))
