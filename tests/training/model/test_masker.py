from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.training.model.masker import Masker, concrete_mask
from klieg.training.settings.options import MaskerOptions

WIDTHS = (3, 4, 6)


def made(widths: tuple[int, ...] = WIDTHS, **options: Any) -> Masker:
    torch.manual_seed(0)
    named = {"taps": tuple("abcdef"[: len(widths)]), "channels": 5, **options}
    return Masker(MaskerOptions(**named), widths)


def activations(
    batch: int, shapes: list[tuple[int, int]], widths: tuple[int, ...] = WIDTHS
) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, k, *shape) for k, shape in zip(widths, shapes, strict=True)]


sides = st.integers(1, 11)
cases = st.fixed_dictionaries(
    {
        "batch": st.sampled_from([1, 7]),
        "shapes": st.lists(st.tuples(sides, sides), min_size=3, max_size=3),
        "size": st.tuples(st.integers(1, 50), st.integers(1, 50)),
        "stride": st.integers(1, 9),
        "raw_first": st.booleans(),
        "enlargement": st.sampled_from(["nearest", "bilinear"]),
        "gumbel": st.sampled_from(["none", "soft", "hard"]),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases)
def test_shape_and_range(case: dict[str, Any]) -> None:
    given = activations(case.pop("batch"), case.pop("shapes"))
    size = case.pop("size")
    masker = made(**case)
    for mode in (False, True):
        masker.train(mode and len(given[0]) > 1)  # normalisation needs several values
        mask = masker(given, size)
        assert mask.shape == (len(given[0]), 1, *size)
        assert mask.dtype == torch.float32
        assert mask.min() >= 0
        assert mask.max() <= 1


def bilinear(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Resize [k, h, w] by the definition of align_corners=False."""

    def corners(place: int, old: int, new: int) -> tuple[int, int, float]:
        source = max((place + 0.5) * old / new - 0.5, 0)
        low = min(int(source), old - 1)
        return low, min(low + 1, old - 1), source - low

    result = np.zeros((len(image), rows, columns))
    for y in range(rows):
        top, bottom, down = corners(y, image.shape[1], rows)
        for x in range(columns):
            left, right, across = corners(x, image.shape[2], columns)
            upper = (1 - across) * image[:, top, left] + across * image[:, top, right]
            lower = (1 - across) * image[:, bottom, left] + across * image[:, bottom, right]
            result[:, y, x] = (1 - down) * upper + down * lower
    return result


@pytest.mark.parametrize("raw_first", [False, True])
def test_equals_a_plain_computation(raw_first: bool) -> None:
    masker = made(raw_first=raw_first, stride=4).eval()
    for part in masker.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
            torch.nn.init.normal_(part.weight)
            torch.nn.init.normal_(part.bias)
    taps = activations(1, [(6, 5), (3, 3), (2, 1)])
    got = masker(taps, (24, 20)).detach().numpy()[0, 0]

    state = {name: value.numpy().astype(float) for name, value in masker.state_dict().items()}
    joined = []
    for number, tap in enumerate(taps):
        image = tap[0].numpy().astype(float)
        if not (raw_first and number == 0):
            start = f"branches.{number}."
            image = np.einsum("ok,khw->ohw", state[start + "0.weight"][:, :, 0, 0], image)
            for channel in range(len(image)):
                mean, var, weight, bias = (
                    state[f"{start}1.{name}"][channel]
                    for name in ("running_mean", "running_var", "weight", "bias")
                )
                image[channel] = (image[channel] - mean) / math.sqrt(var + 1e-5) * weight + bias
            image = np.maximum(image, 0)
        joined.append(bilinear(image, 6, 5))
    padded = np.pad(np.concatenate(joined), ((0, 0), (1, 1), (1, 1)))
    expected = np.zeros((24, 20))
    for y in range(24):
        for x in range(20):
            window = padded[:, y // 4 : y // 4 + 3, x // 4 : x // 4 + 3]
            logit = (window * state["merge.weight"][0]).sum() + state["merge.bias"][0]
            expected[y, x] = 1 / (1 + math.exp(-logit))
    np.testing.assert_allclose(got, expected, atol=2e-6)  # float32 against float64


def test_the_raw_tap_has_no_weights_of_its_own() -> None:
    assert made(raw_first=True).merge.in_channels == 3 + 5 + 5
    assert made(raw_first=False).merge.in_channels == 15
    assert not list(made(raw_first=True).branches[0].parameters())


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_cells_are_blocks_of_stride_pixels(stride: int) -> None:
    mask = made(stride=stride).eval()(activations(2, [(9, 7)] * 3), (32, 48))
    cells = mask[:, :, ::stride, ::stride]
    blocks = cells.repeat_interleave(stride, dim=2).repeat_interleave(stride, dim=3)
    torch.testing.assert_close(mask, blocks, rtol=0, atol=0)
    assert len(cells.unique()) > 0.9 * cells.numel()  # a saturated sigmoid repeats itself


def test_weights_are_drawn_as_published() -> None:
    masker = made((400, 500), channels=300)
    branch = masker.branches[1][0].weight  # 150,000 numbers: the deviation is known to 1 %
    assert float(branch.detach().std()) == pytest.approx(math.sqrt(2 / 300), rel=0.01)
    assert float(masker.merge.weight.detach().std()) == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    other = made((400, 500), channels=300, initialisation="fan_in").merge.weight.detach()
    assert float(other.std()) == pytest.approx(math.sqrt(2 / (9 * 600)), rel=0.1)
    assert masker.branches[1][0].bias is None
    assert masker.merge.bias is not None


def test_hard_masks_are_binary_and_carry_the_gradient_of_soft_ones() -> None:
    torch.manual_seed(0)
    logits, uniform = torch.randn(2, 1, 50, 50), torch.rand(2, 1, 50, 50)
    weights = torch.randn(2, 1, 50, 50)
    gradients, masks = [], []
    for hard in (True, False):
        leaf, temperature = logits.clone().requires_grad_(), torch.tensor(0.7, requires_grad=True)
        mask = concrete_mask(leaf, uniform, temperature, hard=hard)
        (mask * weights).sum().backward()
        masks.append(mask.detach())
        gradients.append((leaf.grad, temperature.grad))
    assert set(masks[0].unique().tolist()) == {0, 1}
    torch.testing.assert_close(masks[0], (masks[1] > 0.5).float(), rtol=0, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    assert float(gradients[0][1].abs()) > 0


def test_concrete_masks_follow_their_equation() -> None:
    logits, uniform = torch.tensor([0.3, -2.0]), torch.tensor([0.25, 0.9])
    got = concrete_mask(logits, uniform, torch.tensor(0.5), hard=False)
    for value, x, u in zip(got.tolist(), [0.3, -2.0], [0.25, 0.9], strict=True):
        noisy = (x + math.log(u) - math.log(1 - u)) / 0.5
        assert value == pytest.approx(1 / (1 + math.exp(-noisy)), rel=1e-5)


def test_no_draw_gives_nan() -> None:
    uniform = torch.tensor([0.0, 1 - 2**-24, 1.0])
    for hard in (False, True):
        logits = torch.zeros(3, requires_grad=True)
        temperature = torch.tensor(0.1, requires_grad=True)
        mask = concrete_mask(logits, uniform, temperature, hard=hard)
        mask.sum().backward()
        for result in (mask, logits.grad, temperature.grad):
            assert result is not None
            assert result.isfinite().all()


@pytest.mark.parametrize("gumbel", ["soft", "hard"])
def test_in_use_gumbel_masks_are_the_sign_of_the_logit(gumbel: str) -> None:
    masker, taps = made(gumbel=gumbel, stride=4).eval(), activations(2, [(8, 8)] * 3)
    plain = made(gumbel="none", stride=4).eval()
    first, again = masker(taps, (32, 32)), masker(taps, (32, 32))
    assert torch.equal(first, again)
    assert torch.equal(first, (plain(taps, (32, 32)) > 0.5).float())
    masker.train()
    assert not torch.equal(masker(taps, (32, 32)), masker(taps, (32, 32)))


def test_a_learned_temperature_gets_a_gradient() -> None:
    masker = made(gumbel="hard", learn_temperature=True, temperature=0.5)
    assert float(masker.log_temperature.detach().exp()) == pytest.approx(0.5)
    masker(activations(3, [(8, 8)] * 3), (32, 32)).mean().backward()
    assert float(masker.log_temperature.grad.abs()) > 0
    assert not made(gumbel="hard").log_temperature.requires_grad
