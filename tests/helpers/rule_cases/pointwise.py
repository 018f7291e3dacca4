"""Operators of one tensor that treat every element alike."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st

from helpers.directional_check import Case
from helpers.rule_cases.drawing import Cases, numbers, positive, shapes


def _of(scale: float = 2.0, **attributes: st.SearchStrategy[float]) -> st.SearchStrategy[Case]:
    """x of both signs; attributes are left out or drawn."""
    optional = {name: st.none() | values for name, values in attributes.items()}
    return st.builds(
        lambda shape, drawn: Case(
            {"x": numbers(shape, scale=scale)},
            attributes={name: value for name, value in drawn.items() if value is not None},
        ),
        shapes,
        st.fixed_dictionaries(optional),
    )


def _of_positive(low: float = 0.0) -> st.SearchStrategy[Case]:
    return shapes.map(lambda shape: Case({"x": low + positive(shape)}))


@st.composite
def _clip(draw: st.DrawFn) -> Case:
    given = draw(st.sampled_from([["low", "high"], ["low"], ["", "high"], []]))
    limits = {"low": np.array(-0.7), "high": np.array(1.1)}
    return Case(
        {"x": numbers(draw(shapes))},
        {name: limits[name] for name in given if name},
        order=["x", *given],
    )


@st.composite
def _prelu(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    axes = draw(st.integers(0, len(shape)))
    slope = tuple(draw(st.sampled_from([1, size])) for size in shape[len(shape) - axes :])
    return Case({"x": numbers(shape)}, {"slope": numbers(slope or (1,), seed=1)})


_alpha = st.sampled_from([0.1, 0.7, 1.5])
_unit = st.sampled_from([0.1, 0.25, 0.4])

CASES: Cases = {
    "Abs": _of(),
    "Acos": _of(scale=0.9),
    "Acosh": _of_positive(low=1.0),
    "Asin": _of(scale=0.9),
    "Asinh": _of(),
    "Atan": _of(),
    "Atanh": _of(scale=0.9),
    "Cast": shapes.map(
        lambda shape: Case({"x": numbers(shape)}, attributes={"to": onnx.TensorProto.FLOAT})
    ),
    "Celu": _of(alpha=_alpha),
    "Clip": _clip(),
    "Cos": _of(),
    "Cosh": _of(),
    "Elu": _of(alpha=_alpha),
    "Erf": _of(),
    "Exp": _of(),
    "HardSigmoid": _of(scale=4.0, alpha=_unit, beta=_unit),
    "HardSwish": _of(scale=5.0),
    "Identity": _of(),
    "LeakyRelu": _of(alpha=_alpha),
    "Log": _of_positive(),
    "Mish": _of(),
    "Neg": _of(),
    "PRelu": _prelu(),
    "Reciprocal": _of_positive(),
    "Relu": _of(),
    "Selu": _of(alpha=_alpha, gamma=_alpha),
    "Sigmoid": _of(scale=6.0),
    "Sin": _of(),
    "Sinh": _of(),
    "Softplus": _of(scale=6.0),
    "Softsign": _of(),
    "Sqrt": _of_positive(),
    "Tan": _of(scale=1.2),
    "Tanh": _of(),
}
