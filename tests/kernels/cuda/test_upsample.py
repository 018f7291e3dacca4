from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.errors import OptionError
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.upsample import upsample
from klieg.kernels.cuda.upsample_plain import nearest_cells, upsample_plain
from klieg.kernels.device.array import DeviceArray

EXAMPLES = min(40, int(os.environ.get("KLIEG_SHIM_EXAMPLES", "40")))


def made(kernels: Kernels, masks: np.ndarray, size: tuple[int, int], **options: Any) -> np.ndarray:
    result = upsample(kernels, DeviceArray.of(kernels.device, masks), size, **options)
    assert result.dtype == np.float32
    return result.to_host(kernels.device)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    count=st.sampled_from([1, 7]),
    cells=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 300)),
    dtype=st.sampled_from([np.float32, np.float16]),
    mode=st.sampled_from(["nearest", "bilinear"]),
    sigmoid=st.booleans(),
)
def test_equals_plain_form(
    kernels: Kernels, count: int, cells: tuple[int, int], size: tuple[int, int], dtype: type,
    mode: Any, sigmoid: bool,
) -> None:  # fmt: skip
    masks = (3 * np.random.default_rng(0).standard_normal((count, *cells))).astype(dtype)
    got = made(kernels, masks, size, mode=mode, sigmoid=sigmoid)
    truth = upsample_plain(masks, size, mode=mode, sigmoid=sigmoid)
    assert got.shape == truth.shape
    # Halves are exact as float32; a few units in the last place of 12, or of 1 after a sigmoid.
    atol = (0.0 if mode == "nearest" else 5e-6) if not sigmoid else 5e-7
    np.testing.assert_allclose(got, truth, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("cells", "size"), [((2, 7), (82, 224)), ((29, 3), (82, 100)), ((13, 50), (5, 3))]
)
def test_nearest_equals_torch(
    kernels: Kernels, cells: tuple[int, int], size: tuple[int, int]
) -> None:
    import torch  # not at the top: sanitizers run this file too, and take minutes to load it

    masks = np.random.default_rng(0).standard_normal((2, *cells)).astype(np.float32)
    got = made(kernels, masks, size, mode="nearest", sigmoid=False)
    truth = torch.nn.functional.interpolate(torch.from_numpy(masks)[None], size, mode="nearest")
    np.testing.assert_array_equal(got, truth[0].numpy())


def test_whole_numbers_would_be_another_rule() -> None:
    assert nearest_cells(2, 82)[41] != 41 * 2 // 82


@pytest.mark.parametrize("logits", [[-2.0, 3.0], [-200.0, 200.0], [-np.inf, np.inf]])
def test_sigmoid_comes_before_the_enlargement(kernels: Kernels, logits: list[float]) -> None:
    masks = np.array([[logits]], dtype=np.float32)
    got = made(kernels, masks, (1, 4), mode="bilinear", sigmoid=True)
    low, high = (1 / (1 + np.exp(-np.clip(logits, -500, 500)))).tolist()
    truth = [low, low + (high - low) / 4, low + (high - low) * 3 / 4, high]
    np.testing.assert_allclose(got[0, 0], truth, atol=3e-7)  # rounding of numbers up to 1


def test_position_is_exact_at_the_largest_sides(kernels: Kernels) -> None:
    cells = np.random.default_rng(0).standard_normal((1, 1, 16384)).astype(np.float32)
    got = made(kernels, cells, (1, 16381), mode="bilinear", sigmoid=False)
    position = ((np.arange(16381) + 0.5) * 16384 / 16381 - 0.5).clip(0, 16383)
    truth = np.interp(position, np.arange(16384), cells[0, 0])
    np.testing.assert_allclose(got[0, 0], truth, atol=2e-6)  # rounding of numbers up to 8


def test_values_stay_in_range(kernels: Kernels) -> None:
    flat = np.random.default_rng(0).random((7, 1, 1)).astype(np.float32)
    masks = np.broadcast_to(flat, (7, 5, 6))
    got = made(kernels, masks, (31, 101), mode="bilinear", sigmoid=False)
    np.testing.assert_array_equal(got, np.broadcast_to(flat, got.shape))


def test_nan_is_handed_on(kernels: Kernels) -> None:
    masks = np.full((1, 1, 1), np.nan, dtype=np.float32)
    assert np.isnan(made(kernels, masks, (2, 2), mode="bilinear", sigmoid=True)).all()


@pytest.mark.parametrize(
    ("masks", "size", "mode"),
    [
        (np.zeros((1, 2, 2)), (4, 4), "nearest"),
        (np.zeros((2, 2), np.float32), (4, 4), "nearest"),
        (np.zeros((0, 2, 2), np.float32), (4, 4), "nearest"),
        (np.zeros((1, 2, 2), np.float32), (0, 4), "nearest"),
        (np.zeros((1, 2, 2), np.float32), (4, 4), "bicubic"),
    ],
)
def test_impossible_calls_are_refused(
    kernels: Kernels, masks: np.ndarray, size: tuple[int, int], mode: Any
) -> None:
    with pytest.raises(OptionError, match="expected"):
        made(kernels, masks, size, mode=mode, sigmoid=False)
