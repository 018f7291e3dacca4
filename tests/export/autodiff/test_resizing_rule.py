"""Every mode of Resize, against finite differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.directional_check import Case, check_case
from helpers.rule_cases.drawing import numbers

TOLERANCE = 2e-6
"""The rule computes the coordinates in float32, as engines do, whatever the type of x."""

MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]


def resize(x: np.ndarray, *, scales: Any = None, sizes: Any = None, **attributes: Any) -> None:
    constants = {"scales": np.array(scales, np.float32)} if scales else {"sizes": np.array(sizes)}
    order = ["x", "", "scales"] if scales else ["x", "", "", "sizes"]
    # Engines choose other cells than float64 where a cell of y lies just between two of x.
    case = Case({"x": x}, constants, attributes, order, fixed_axes=(0, 1), engine=False)
    check_case("Resize", case, tolerance=TOLERANCE)


@pytest.mark.parametrize("transformation", MODES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, transformation: str) -> None:
    options = {"mode": mode, "coordinate_transformation_mode": transformation}
    resize(numbers((1, 2, 3, 4)), scales=[1, 1, 2, 1.5], **options)
    resize(numbers((2, 1, 5, 4)), sizes=[2, 1, 3, 7], **options)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(rounding: str) -> None:
    for transformation in ("half_pixel", "asymmetric"):
        options = {"coordinate_transformation_mode": transformation, "nearest_mode": rounding}
        resize(numbers((1, 1, 3, 4)), sizes=[1, 1, 6, 3], mode="nearest", **options)


def test_cubic_without_outside_and_axes() -> None:
    resize(numbers((1, 1, 3, 4)), sizes=[6, 5], axes=[2, 3], mode="cubic", exclude_outside=1)
    resize(numbers((1, 1, 4, 3)), scales=[2.0], axes=[2], mode="cubic", cubic_coeff_a=-0.5)


def test_three_dimensions() -> None:
    resize(numbers((1, 1, 2, 3, 2)), scales=[1, 1, 2, 1.5, 2], mode="linear")
