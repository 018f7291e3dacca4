"""Rules that read, write, cut and pad by index, against finite differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.gradient_check import check, numbers


@pytest.mark.parametrize(
    ("shape", "indices", "axis"),
    [
        ((2, 3, 4), 1, 1),
        ((2, 3, 4), -1, 1),
        ((2, 3, 4), [0, 2], 1),
        ((2, 3, 4), [1, 1, 0], 1),
        ((2, 3, 4), [2, 0, 1], 1),
        ((2, 3, 4), [1] * 9 + [0], 1),
        ((2, 3, 4), [[0, 1], [2, 2], [1, 0]], 1),
        ((2, 3, 4), [[0, -1]], 2),
        ((3, 2), [0, 2, 0], 0),
        ((2, 3, 4), 0, 2),
    ],
)
def test_gather(shape: tuple[int, ...], indices: Any, axis: int) -> None:
    check("Gather", {"x": numbers(*shape)}, "x", constants={"i": np.array(indices)}, axis=axis)


def test_gather_elements() -> None:
    indices = np.random.default_rng(0).integers(-4, 4, (2, 3, 5))
    for axis, index in ((2, indices), (1, np.array([[[0, 1, 2, -3]] * 2] * 2))):
        x = {"x": numbers(2, 3, 4)}
        check("GatherElements", x, "x", constants={"i": index}, axis=axis)


@pytest.mark.parametrize("wrt", ["x", "u"])
def test_scatter(wrt: str) -> None:
    inputs = {"x": numbers(3, 4), "u": numbers(2, 4, seed=1)}
    place = np.array([[2], [0]])
    check("ScatterND", inputs, wrt, constants={"i": place}, order=["x", "i", "u"])
    place = np.array([[2, 0, 1, 1], [0, 1, 2, 0]])
    check("ScatterElements", inputs, wrt, constants={"i": place}, order=["x", "i", "u"], axis=0)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [[0, 1, 0, 2], [1, 0, 0, 0], [2, 3, 1, 1]])
def test_pad(mode: str, pads: list[int]) -> None:
    constants = {"p": np.array(pads), "": np.array(0), "a": np.array([2, -1])}
    check(
        "Pad", {"x": numbers(1, 2, 3, 4)}, "x",
        constants={k: v for k, v in constants.items() if k}, order=["x", "p", "", "a"], mode=mode,
    )  # fmt: skip


def test_negative_pad() -> None:
    pads = np.array([0, 0, -1, 2, 0, 0, 1, -2])
    check("Pad", {"x": numbers(1, 2, 3, 4)}, "x", constants={"p": pads})


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [2], [1], [1]),
        ([0], [-1], [2], [1]),
        ([1, 2], [2**31 - 1, 2**63 - 1], [2, 3], [1, 1]),
        ([0], [9], [1], [1]),
        ([-3], [9], [-1], [1]),
        ([0], [99], [3], [2]),
        ([1, 0], [99, 99], [2, 3], [2, 3]),
        ([-1], [-99], [3], [-1]),
        ([-1, 3], [-99, 0], [2, 3], [-1, -2]),
        ([9], [-99], [3], [-3]),
    ],
)
def test_slice(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
    names = {"s": starts, "e": ends, "a": axes, "t": steps}
    constants = {name: np.array(values) for name, values in names.items()}
    check("Slice", {"x": numbers(2, 3, 4, 5)}, "x", constants=constants)


@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(upper: int) -> None:
    check("Trilu", {"x": numbers(2, 3, 4)}, "x", constants={"k": np.array(1)}, upper=upper)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumulative_sum(exclusive: int, reverse: int) -> None:
    options = {"exclusive": exclusive, "reverse": reverse}
    check("CumSum", {"x": numbers(2, 3)}, "x", constants={"a": np.array(1)}, **options)
