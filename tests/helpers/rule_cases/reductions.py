"""Reductions over axes, which are given in any way the operators allow."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from helpers.directional_check import Case
from helpers.rule_cases.drawing import Cases, numbers, positive, shapes


@st.composite
def _reduction(draw: st.DrawFn, *, above_zero: bool = False, zeros: bool = False) -> Case:
    shape = draw(shapes)
    x = positive(shape) if above_zero else numbers(shape)
    if zeros:
        x[np.random.default_rng(3).random(shape) < draw(st.sampled_from([0.0, 0.1, 0.4]))] = 0
    attributes: dict[str, int] = {}
    for name in ("keepdims", "noop_with_empty_axes"):
        if draw(st.booleans()):
            attributes[name] = draw(st.integers(0, 1))
    axes = draw(
        st.none()
        | st.lists(st.integers(0, len(shape) - 1), unique=True).map(
            lambda some: [axis - len(shape) if axis % 2 else axis for axis in some]
        )
    )
    constants = {} if axes is None else {"axes": np.array(axes, dtype=np.int64)}
    # The standard is silent about what an operator that reduces nothing does to an element.
    if not axes and attributes.get("noop_with_empty_axes") and not zeros:
        attributes["noop_with_empty_axes"] = 0
    return Case({"x": x}, constants, attributes)


@st.composite
def _global(draw: st.DrawFn, *, powers: bool = False) -> Case:
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    shape = (draw(st.sampled_from([1, 7])), draw(st.integers(1, 3)), *sizes)
    power = draw(st.none() | st.integers(1, 4)) if powers else None
    return Case({"x": numbers(shape)}, attributes={} if power is None else {"p": power})


CASES: Cases = {
    "GlobalAveragePool": _global(),
    "GlobalLpPool": _global(powers=True),
    "GlobalMaxPool": _global(),
    "ReduceL1": _reduction(),
    "ReduceL2": _reduction(),
    "ReduceLogSum": _reduction(above_zero=True),
    "ReduceLogSumExp": _reduction(),
    "ReduceMax": _reduction(),
    "ReduceMean": _reduction(),
    "ReduceMin": _reduction(),
    "ReduceProd": _reduction(zeros=True),
    "ReduceSum": _reduction(),
    "ReduceSumSquare": _reduction(),
}
