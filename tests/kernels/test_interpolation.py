from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.kernels.interpolation import bilinear_weights, enlarge, enlarge_plain

sizes = st.integers(1, 40)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(sizes, sizes, sizes, sizes)
def test_equals_torch(h: int, w: int, height: int, width: int) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 3, h, w)).astype(np.float32)
    truth = torch.nn.functional.interpolate(
        torch.from_numpy(maps), (height, width), mode="bilinear", align_corners=False
    ).numpy()
    # torch finds positions in float32, we in float64: a few units in the last place of 40
    np.testing.assert_allclose(enlarge_plain(maps, height, width), truth, atol=2e-5)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(sizes, sizes, sizes, sizes)
def test_fast_form_equals_plain_form(h: int, w: int, height: int, width: int) -> None:
    cells = np.random.default_rng(0).standard_normal((h, w)).astype(np.float32)
    got = enlarge(cells, height, width)
    # OpenCV keeps its weights in float32: a few units in the last place
    np.testing.assert_allclose(got, enlarge_plain(cells, height, width), atol=5e-6)


@pytest.mark.parametrize(("cells", "pixels"), [(1, 1), (1, 9), (7, 224), (29, 224), (50, 3)])
def test_rows_sum_to_one(cells: int, pixels: int) -> None:
    weights = bilinear_weights(cells, pixels)
    assert weights.shape == (pixels, cells)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (np.count_nonzero(weights, axis=1) <= 2).all()


def test_cached_weights_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        bilinear_weights(3, 5)[0, 0] = 1
