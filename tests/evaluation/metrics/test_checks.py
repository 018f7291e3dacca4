"""What metrics refuse."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.evaluation.metrics.checks import check_shares, checked_boxes
from klieg.maps.checks import check_maps


def test_maps_that_can_be_used_pass() -> None:
    check_maps(np.zeros((1, 3, 4), np.float32))
    check_maps(np.ones((2, 1, 1), np.float32))
    check_maps(np.zeros((0, 3, 4), np.float32))
    check_maps(np.full((1, 2, 2), -7.0), bounded=False)


@pytest.mark.parametrize(
    ("value", "bounded"),
    [(-0.1, True), (1.1, True), (np.nan, True), (np.nan, False), (np.inf, True), (-np.inf, False)],
)
def test_values_are_refused(value: float, bounded: bool) -> None:
    maps = np.full((2, 3, 3), 0.5)
    maps[1, 2, 0] = value
    with pytest.raises(InputError, match=r"0\.\.1" if np.isfinite(value) else "NaN or infinity"):
        check_maps(maps, bounded=bounded)


def test_shapes_are_refused() -> None:
    for shape in ((3, 3), (1, 0, 3), (1, 1, 3, 3)):
        with pytest.raises(InputError, match=r"map\[None\]"):
            check_maps(np.zeros(shape))
    with pytest.raises(InputError, match="one of each"):
        check_shares(one=np.zeros(2), other=np.zeros(3))


def test_boxes_become_exact() -> None:
    boxes = checked_boxes(np.array([[0, 1, 2, 3]]))
    assert boxes.dtype == np.float64
    assert checked_boxes(np.zeros((0, 4))).shape == (0, 4)
