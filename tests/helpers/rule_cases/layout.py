"""Operators that move, take, repeat or interpolate entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.helper as oh
from hypothesis import assume
from hypothesis import strategies as st

from helpers.directional_check import Case
from helpers.rule_cases.drawing import Cases, images, numbers, shapes


@st.composite
def _concat(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    tensors = {}
    for i, name in enumerate("pqr"[: draw(st.integers(1, 3))]):
        own = list(shape)
        own[axis] = draw(st.integers(1, 3))
        tensors[name] = numbers(tuple(own), seed=i)
    wrt = draw(st.sampled_from([*tensors, "all"]))
    inputs = {name: t for name, t in tensors.items() if wrt in (name, "all")}
    constants = {name: t for name, t in tensors.items() if name not in inputs}
    return Case(inputs, constants, {"axis": axis}, list(tensors))


@st.composite
def _split(draw: st.DrawFn) -> Case:
    """Parts in another order; some lead nowhere."""
    shape = list(draw(shapes))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    shape[axis] = sum(sizes)
    outputs = [f"part{i}" for i in range(len(sizes))]
    wanted = draw(st.permutations(outputs))[: draw(st.integers(1, len(outputs)))]
    tail = [oh.make_node("Concat", wanted, ["y"], axis=axis)]
    return Case(
        {"x": numbers(tuple(shape))},
        {"sizes": np.array(sizes)},
        {"axis": axis},
        outputs=outputs,
        tail=tail,
    )


@st.composite
def _transpose(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    perm = draw(st.none() | st.permutations(range(len(shape))))
    return Case({"x": numbers(shape)}, attributes={} if perm is None else {"perm": perm})


@st.composite
def _flatten(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    axis = draw(st.none() | st.integers(-len(shape), len(shape)))
    return Case({"x": numbers(shape)}, attributes={} if axis is None else {"axis": axis})


@st.composite
def _reshape(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    target: list[int] = draw(
        st.sampled_from([[-1], [0, -1], [1, -1], [*shape[::-1]], [*shape, 1], [0] * len(shape)])
    )
    return Case({"x": numbers(shape)}, {"shape": np.array(target)})


@st.composite
def _squeeze(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    if not ones or draw(st.booleans()):
        return Case({"x": numbers(shape)})  # all axes of size 1
    axes = draw(st.lists(st.sampled_from(ones), unique=True, min_size=1))
    turned = [axis - len(shape) if axis % 2 else axis for axis in axes]
    return Case({"x": numbers(shape)}, {"axes": np.array(turned)})


@st.composite
def _unsqueeze(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    rank = len(shape) + 2
    axes = draw(st.lists(st.integers(0, rank - 1), unique=True, min_size=2, max_size=2))
    return Case({"x": numbers(shape)}, {"axes": np.array([axes[0], axes[1] - rank])})


@st.composite
def _expand(draw: st.DrawFn) -> Case:
    shape = tuple(draw(st.sampled_from([1, size])) for size in draw(shapes))
    target = [draw(st.sampled_from([1, 3])) if size == 1 else size for size in shape]
    lead = draw(st.lists(st.integers(1, 3), max_size=2))
    if not lead and draw(st.booleans()):
        target = target[draw(st.integers(0, len(target) - 1)) :]
    return Case({"x": numbers(shape)}, {"shape": np.array([*lead, *target])})


@st.composite
def _dropout(draw: st.DrawFn) -> Case:
    given = draw(st.sampled_from([[], ["ratio"], ["ratio", "training"], ["", "training"]]))
    constants = {"ratio": np.array(0.5), "training": np.array(False)}
    return Case(
        {"x": numbers(draw(shapes))},
        {name: constants[name] for name in given if name},
        order=["x", *given],
    )


@st.composite
def _slice(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    axes = draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    limits = []
    for axis in axes:
        size = shape[axis]
        step = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        start = draw(st.integers(-size - 1, size + 1))
        end = draw(st.sampled_from([-(2**31) + 1, 2**31 - 1]) | st.integers(-size - 1, size + 1))
        # In Python a negative step reaches the first cell only if the end is left out.
        stop = None if step < 0 and end < -size else end
        assume(len(range(*slice(start, stop, step).indices(size))) > 0)
        limits.append((start, end, step))
    starts, ends, steps = (np.array(column) for column in zip(*limits, strict=True))
    return Case(
        {"x": numbers(shape)},
        {"starts": starts, "ends": ends, "axes": np.array(axes), "steps": steps},
    )


@st.composite
def _tile(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    repeats = [draw(st.integers(1, 3)) for _ in shape]
    return Case({"x": numbers(shape)}, {"repeats": np.array(repeats)}, fixed_axes=range(9))


@st.composite
def _triangle(draw: st.DrawFn) -> Case:
    shape = draw(shapes.filter(lambda shape: len(shape) > 1))
    constants = {"k": np.array(draw(st.integers(-2, 2)))} if draw(st.booleans()) else {}
    return Case({"x": numbers(shape)}, constants, {"upper": draw(st.integers(0, 1))})


@st.composite
def _cumulative(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    attributes = {"exclusive": draw(st.integers(0, 1)), "reverse": draw(st.integers(0, 1))}
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return Case({"x": numbers(shape)}, {"axis": np.array(axis)}, attributes)


@st.composite
def _blocks(draw: st.DrawFn, *, to_space: bool) -> Case:
    batch, channels, height, width = draw(images)
    block = draw(st.integers(1, 3))
    if not to_space:
        shape = (batch, channels, height * block, width * block)
        return Case({"x": numbers(shape)}, attributes={"blocksize": block})
    attributes: dict[str, Any] = {"blocksize": block}
    if draw(st.booleans()):
        attributes["mode"] = draw(st.sampled_from(["DCR", "CRD"]))
    return Case(
        {"x": numbers((batch, channels * block * block, height, width))}, attributes=attributes
    )


@st.composite
def _pad(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    mode = draw(st.sampled_from(["constant", "constant", "edge", "reflect", "wrap"]))
    axes = draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    sizes = [shape[axis] for axis in axes]
    pads = []
    for size in sizes * 2:
        most = {"constant": 3, "edge": 3, "reflect": size - 1, "wrap": size}[mode]
        pads.append(draw(st.integers(0, most)))
    constants: dict[str, np.ndarray] = {"pads": np.array(pads)}
    order = ["x", "pads"]
    if mode == "constant" and draw(st.booleans()):
        constants["value"] = np.array(0.5)
    if len(axes) < len(shape) or axes != sorted(axes):
        constants["axes"] = np.array([a - len(shape) if a % 2 else a for a in axes])
        order += ["value" if "value" in constants else "", "axes"]
    elif "value" in constants:
        order.append("value")
    return Case({"x": numbers(shape)}, constants, {"mode": mode}, order, fixed_axes=range(9))


@st.composite
def _resize(draw: st.DrawFn) -> Case:
    shape = draw(images)
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    coordinates = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": draw(st.sampled_from(coordinates)),
    }
    if mode == "nearest":
        attributes["nearest_mode"] = draw(st.sampled_from(["floor", "round_prefer_floor"]))
    sizes = [draw(st.integers(1, 9)) for _ in range(2)]
    scales = [draw(st.sampled_from([1.0, 1.5, 2.0, 3.0])) for _ in range(2)]
    by_scale = draw(st.booleans())
    constants = {
        "scales" if by_scale else "sizes": np.array([1, 1, *scales], np.float32)
        if by_scale
        else np.array([*shape[:2], *sizes])
    }
    order = ["x", "", *(["scales"] if by_scale else ["", "sizes"])]
    # With given sizes the batch is one of them. Where a cell of y lies just between two cells of x,
    # float32 and float64 may choose different ones.
    centred = attributes["coordinate_transformation_mode"] != "asymmetric"
    exact = mode != "nearest" or not centred
    return Case(
        {"x": numbers(shape)}, constants, attributes, order, fixed_axes=(0, 1), engine=exact
    )


CASES: Cases = {
    "Concat": _concat(),
    "CumSum": _cumulative(),
    "DepthToSpace": _blocks(to_space=True),
    "Dropout": _dropout(),
    "Expand": _expand(),
    "Flatten": _flatten(),
    "Pad": _pad(),
    "Reshape": _reshape(),
    "Resize": _resize(),
    "Slice": _slice(),
    "SpaceToDepth": _blocks(to_space=False),
    "Split": _split(),
    "Squeeze": _squeeze(),
    "Tile": _tile(),
    "Transpose": _transpose(),
    "Trilu": _triangle(),
    "Unsqueeze": _unsqueeze(),
}
