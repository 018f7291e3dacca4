"""Rules of sliding windows against finite differences in float64."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.gradient_check import check, numbers

convolutions = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "dilations": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "pads": st.tuples(*[st.integers(0, 2)] * 4),
        "group": st.sampled_from([1, 2]),
        "batch": st.sampled_from([1, 2]),
    }
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(convolutions)
def test_conv(case: dict[str, Any]) -> None:
    covered = [
        n + b + e - d * (k - 1) - 1
        for n, k, d, b, e in zip(
            case["size"], case["kernel"], case["dilations"], case["pads"][:2], case["pads"][2:],
            strict=True,
        )
    ]  # fmt: skip
    if min(covered) < 0:
        return  # the window does not fit: no such model exists
    group = case["group"]
    weight = numbers(2 * group, 2, *case["kernel"], seed=1)
    check(
        "Conv",
        {"x": numbers(case["batch"], 2 * group, *case["size"])},
        "x",
        constants={"w": weight},
        strides=case["strides"],
        dilations=case["dilations"],
        pads=case["pads"],
        group=group,
    )


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_conv_automatic_padding(automatic: str) -> None:
    check(
        "Conv", {"x": numbers(1, 2, 5, 6)}, "x", constants={"w": numbers(3, 2, 3, 2, seed=1)},
        auto_pad=automatic,
    )  # fmt: skip


@pytest.mark.parametrize("spatial", [(5,), (3, 4, 5)])
def test_conv_one_and_three_axes(spatial: tuple[int, ...]) -> None:
    kernel = [2] * len(spatial)
    check(
        "Conv", {"x": numbers(1, 2, *spatial)}, "x", strides=[2] * len(spatial),
        constants={"w": numbers(2, 2, *kernel, seed=1)},
    )  # fmt: skip


pools = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(1, 8), st.integers(1, 8)),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "pads": st.tuples(*[st.integers(0, 1)] * 4),
        "include": st.booleans(),
    }
)


def _fits(case: dict[str, Any]) -> bool:
    pads = case["pads"]
    return all(
        n + pads[i] + pads[i + 2] >= k and max(pads[i], pads[i + 2]) < k
        for i, (n, k) in enumerate(zip(case["size"], case["kernel"], strict=True))
    )


@settings(max_examples=15, deadline=None, derandomize=True)
@given(pools)
def test_max_pool(case: dict[str, Any]) -> None:
    if _fits(case):
        check(
            "MaxPool", {"x": numbers(2, 2, *case["size"])}, "x",
            kernel_shape=case["kernel"], strides=case["strides"], pads=case["pads"],
        )  # fmt: skip


@settings(max_examples=15, deadline=None, derandomize=True)
@given(pools)
def test_average_pool(case: dict[str, Any]) -> None:
    if _fits(case):
        check(
            "AveragePool", {"x": numbers(2, 2, *case["size"])}, "x",
            kernel_shape=case["kernel"], strides=case["strides"], pads=case["pads"],
            count_include_pad=int(case["include"]),
        )  # fmt: skip


@pytest.mark.parametrize("size", [(5, 6), (6, 8), (7, 4)])
def test_max_pool_ceil_mode(size: tuple[int, int]) -> None:
    check(
        "MaxPool", {"x": numbers(1, 2, *size)}, "x",
        kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
    )  # fmt: skip
