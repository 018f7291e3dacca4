"""Operators of several tensors: broadcasting, products."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from helpers.directional_check import Case
from helpers.rule_cases.drawing import Cases, numbers, positive, shapes


def _broadcast(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Draw a shape that broadcasts to `shape`: fewer axes, some of size 1."""
    axes = draw(st.integers(0, len(shape)))
    kept = shape[len(shape) - axes :]
    return tuple(draw(st.sampled_from([1, size])) for size in kept)


def _chosen(draw: st.DrawFn, operands: dict[str, np.ndarray]) -> Case:
    """Differentiate by one operand, or by all; the others are initializers.

    Sizes are known: which axes are broadcast is not visible where they are dynamic.
    """
    wrt = draw(st.sampled_from([*operands, "all"]))
    names = list(operands) if wrt == "all" else [wrt]
    return Case(
        {name: operands[name] for name in names},
        {name: value for name, value in operands.items() if name not in names},
        order=list(operands),
        fixed_axes=range(9) if wrt == "all" else (1,),
    )


@st.composite
def _two(draw: st.DrawFn, *, divisor: bool = False) -> Case:
    shape = draw(shapes)
    sides = [shape, _broadcast(draw, shape)]
    if draw(st.booleans()):
        sides.reverse()
    right = positive(sides[1], seed=1) if divisor else numbers(sides[1], seed=1)
    return _chosen(draw, {"a": numbers(sides[0]), "b": right})


@st.composite
def _several(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    count = draw(st.integers(1, 3))
    sides = [shape, *(_broadcast(draw, shape) for _ in range(count - 1))]
    return _chosen(
        draw,
        {
            name: numbers(side, seed=i, scale=2 + 0.137 * i)  # no ties between operands
            for i, (name, side) in enumerate(zip("abc", sides, strict=False))
        },
    )


@st.composite
def _power(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    return _chosen(draw, {"x": positive(shape), "p": numbers(_broadcast(draw, shape), seed=1)})


@st.composite
def _where(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    condition = np.random.default_rng(2).random(_broadcast(draw, shape)) < 0.5
    case = _chosen(draw, {"a": numbers(shape), "b": numbers(_broadcast(draw, shape), seed=1)})
    return Case(
        case.inputs,
        {**case.constants, "condition": condition},
        order=["condition", "a", "b"],
        fixed_axes=case.fixed_axes,
    )


@st.composite
def _gemm(draw: st.DrawFn) -> Case:
    m, k, n = (draw(st.integers(1, 5)) for _ in range(3))
    a_turned, b_turned = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    operands = {
        "a": numbers((k, m) if a_turned else (m, k)),
        "b": numbers((n, k) if b_turned else (k, n), seed=1),
    }
    if draw(st.booleans()):
        operands["c"] = numbers(_broadcast(draw, (m, n)), seed=2)
    case = _chosen(draw, operands)
    return Case(
        case.inputs,
        case.constants,
        {
            "transA": a_turned,
            "transB": b_turned,
            "alpha": draw(st.sampled_from([1.0, 0.7])),
            "beta": draw(st.sampled_from([1.0, 1.3])),
        },
        case.order,
        fixed_axes=case.fixed_axes,
    )


@st.composite
def _matmul(draw: st.DrawFn) -> Case:
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    lead = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    leads = lead, _broadcast(draw, lead)
    if draw(st.booleans()):
        leads = tuple(_broadcast(draw, lead) for _ in leads)
    if draw(st.booleans()):
        leads = leads[::-1]
    sides = [(*leads[0], m, k), (*leads[1], k, n)]
    for side in (0, 1):
        if draw(st.sampled_from([False, False, True])):
            sides[side] = (k,)  # a vector
    case = _chosen(draw, {"a": numbers(sides[0]), "b": numbers(sides[1], seed=1)})
    return Case(case.inputs, case.constants, {}, case.order, fixed_axes=range(9))


CASES: Cases = {
    "Add": _two(),
    "Div": _two(divisor=True),
    "Gemm": _gemm(),
    "MatMul": _matmul(),
    "Max": _several(),
    "Mean": _several(),
    "Min": _several(),
    "Mul": _two(),
    "Pow": _power(),
    "Sub": _two(),
    "Sum": _several(),
    "Where": _where(),
}
