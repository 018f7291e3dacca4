"""Operators that divide by a statistic of the sample, or of the training set."""

from __future__ import annotations

from hypothesis import strategies as st

from helpers.directional_check import Case
from helpers.rule_cases.drawing import Cases, images, numbers, positive, shapes


@st.composite
def _batch(draw: st.DrawFn) -> Case:
    shape = draw(shapes.filter(lambda shape: len(shape) > 1))
    channels = (shape[1],)
    constants = {
        "scale": numbers(channels, seed=1),
        "bias": numbers(channels, seed=2),
        "mean": numbers(channels, seed=3),
        "variance": positive(channels, seed=4),
    }
    attributes = {"epsilon": draw(st.sampled_from([1e-5, 0.01])), "momentum": 0.5}
    return Case({"x": numbers(shape)}, constants, attributes)


@st.composite
def _instance(draw: st.DrawFn) -> Case:
    shape = draw(images.filter(lambda shape: shape[2] * shape[3] > 1))
    constants = {"scale": numbers((shape[1],), seed=1), "bias": numbers((shape[1],), seed=2)}
    return Case({"x": numbers(shape)}, constants, {"epsilon": 0.01})


@st.composite
def _layer(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    constants = {"scale": numbers(shape[axis:], seed=1)}
    if draw(st.booleans()):
        constants["bias"] = numbers(shape[axis:], seed=2)
    attributes = {"axis": axis, "epsilon": 0.01}
    return Case({"x": numbers(shape)}, constants, attributes, fixed_axes=range(9))


@st.composite
def _along_axis(draw: st.DrawFn, *, powers: bool = False) -> Case:
    shape = draw(shapes)
    attributes = {"axis": draw(st.integers(-len(shape), len(shape) - 1))}
    if powers:
        attributes["p"] = draw(st.integers(1, 2))
    return Case({"x": numbers(shape)}, attributes=attributes)


@st.composite
def _neighbours(draw: st.DrawFn) -> Case:
    shape = (2, draw(st.integers(1, 6)), draw(st.integers(1, 3)), 2)
    attributes = {
        "size": draw(st.sampled_from([1, 3, 5])),  # ONNX Runtime takes odd ones only
        "alpha": draw(st.sampled_from([0.3, 1e-4])),
        "beta": draw(st.sampled_from([0.75, 0.5])),
        "bias": draw(st.sampled_from([1.0, 0.6])),
    }
    return Case({"x": numbers(shape)}, attributes=attributes)


CASES: Cases = {
    "BatchNormalization": _batch(),
    "InstanceNormalization": _instance(),
    "LRN": _neighbours(),
    "LayerNormalization": _layer(),
    "LogSoftmax": _along_axis(),
    "LpNormalization": _along_axis(powers=True),
    "Softmax": _along_axis(),
}
