"""Operators that take parts of a tensor, or repeat them."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import Size, dims, numpy_constant
from klieg.export.autodiff.engine import Pullback, Rule

BEFORE_THE_START: Final = -(2**31) + 1
"""Where a Slice ends that runs backwards to the first cell."""


def split(at: Pullback) -> ir.Value:
    """y_i are x's parts along an axis: their gradients in a row, zeros for missing ones."""
    op = at.op
    parts = []
    for output, cotangent in zip(at.node.outputs, at.cotangents, strict=True):
        if cotangent is None:
            parts.append(op.Mul(output, 0.0))
        else:
            parts.append(cotangent.expanded(op, output))
    return op.Concat(*parts, axis=int(at.attribute("axis", 0)))


def slice_(at: Pullback) -> ir.Value:
    """y is every step-th cell of a part of x: g within zeros, zeros between its cells."""
    at.require(at.index == 0, "its limits cannot carry a gradient")
    rank = len(dims(at.x))
    starts = numpy_constant(at.input(1))
    count = dims(at.input(1))[0] if starts is None else len(starts)
    if count is None:
        raise at.unsupported("the number of its limits is unknown")
    axes = _constant_or(at, 3, np.arange(count)) % rank
    steps = _constant_or(at, 4, np.ones(count, dtype=np.int64))
    op, value = at.op, at.g
    lengths: list[Size] = [op.size(at.y, axis) for axis in range(rank)]
    before: list[Size] = [np.zeros(1, dtype=np.int64)] * rank
    after: list[Size] = list(before)
    for place, (axis, step) in enumerate(zip(axes.tolist(), steps.tolist(), strict=True)):
        size, stride = op.size(at.x, axis), abs(step)
        first = _first_cell(at, place, size, forward=step > 0)
        # The last cell needs no zeros behind it up to the next.
        length = op.add(op.multiply(lengths[axis], stride), np.array([1 - stride]))
        if step < 0:
            value = op.Slice(value, [-1], [BEFORE_THE_START], [axis], [-1])
            first = op.subtract(first, op.add(length, np.array([-1])))
        if stride > 1:
            value = _spread_out(at, value, axis, stride, lengths)
        lengths[axis], before[axis] = length, first
        after[axis] = op.subtract(size, op.add(first, length))
    return op.Pad(value, op.join([*before, *after]), 0.0)


def _first_cell(at: Pullback, place: int, size: Size, *, forward: bool) -> Size:
    """Return where a slice starts [1]: counted from the end if negative, and within the axis."""
    op = at.op
    starts = numpy_constant(at.input(1))
    if starts is None:
        start: Size = op.Cast(
            op.Slice(at.input(1), [place], [place + 1], [0]), to=int(ir.DataType.INT64)
        )
        start = op.Where(op.Less(start, 0), op.Add(start, size), start)
    else:
        start = np.array([int(starts[place])])
        if starts[place] < 0:
            start = op.add(start, size)
        elif starts[place] == 0:
            return start
    last = size if forward else op.subtract(size, np.array([1]))
    if isinstance(start, np.ndarray) and isinstance(last, np.ndarray):
        return np.clip(start, 0, last)
    return op.Max(op.Min(start, last), [0])


def _spread_out(
    at: Pullback, value: ir.Value, axis: int, stride: int, lengths: list[Size]
) -> ir.Value:
    """Put stride - 1 zeros between the cells of an axis of a value with these lengths."""
    op = at.op
    pads = np.zeros((2, len(lengths) + 1), dtype=np.int64)
    pads[1, axis + 1] = stride - 1
    spaced = op.Pad(op.Unsqueeze(value, [axis + 1]), pads.ravel(), 0.0)
    sizes = list(lengths)
    sizes[axis] = op.multiply(sizes[axis], stride)
    merged = op.Reshape(spaced, op.join(sizes))
    return op.Slice(merged, [0], op.add(sizes[axis], np.array([1 - stride])), [axis])


def trilu(at: Pullback) -> ir.Value:
    """y is x with a triangle set to zero: g with the same triangle set to zero."""
    at.require(at.index == 0, "its diagonal cannot carry a gradient")
    return at.op.Trilu(at.g, at.optional_input(1), upper=int(at.attribute("upper", 1)))


def cumulative_sum(at: Pullback) -> ir.Value:
    """y_i = x_1 + ... + x_i along an axis: g summed from the other end."""
    at.require(at.index == 0, "its axis cannot carry a gradient")
    return at.op.CumSum(
        at.g,
        at.input(1),
        exclusive=int(at.attribute("exclusive", 0)),
        reverse=1 - int(at.attribute("reverse", 0)),
    )


def tile(at: Pullback) -> ir.Value:
    """y repeats x: g summed over the repetitions."""
    repeats = numpy_constant(at.input(1))
    sizes = dims(at.x)
    if repeats is None or at.index != 0:
        raise at.unsupported("the numbers of repetitions must be constants")
    op, value = at.op, at.g
    for axis, count in enumerate(repeats.tolist()):
        if count == 1:
            continue
        if sizes[axis] is None:
            raise at.unsupported("it repeats along an axis whose size is known at run time only")
        parts = [
            op.Slice(value, [i * (sizes[axis] or 0)], [(i + 1) * (sizes[axis] or 0)], [axis])
            for i in range(count)
        ]
        value = op.Sum(*parts)
    return value


def depth_to_space(at: Pullback) -> ir.Value:
    """y moves blocks of channels into space: g moved back."""
    block = int(at.attribute("blocksize", 1))
    if at.attribute("mode", "DCR") == "DCR":
        return at.op.SpaceToDepth(at.g, blocksize=block)
    # The other order of channels: what SpaceToDepth calls [block, block, c] is [c, block, block].
    channels = dims(at.y)[1]
    if channels is None:
        raise at.unsupported("the number of its channels is unknown")
    order = np.arange(block * block * channels).reshape(block * block, channels).T.ravel()
    return at.op.Gather(at.op.SpaceToDepth(at.g, blocksize=block), order, axis=1)


def space_to_depth(at: Pullback) -> ir.Value:
    """y moves blocks of space into channels: g moved back."""
    return at.op.DepthToSpace(at.g, blocksize=int(at.attribute("blocksize", 1)), mode="DCR")


def _constant_or(at: Pullback, index: int, default: np.ndarray) -> np.ndarray:
    value = at.optional_input(index)
    if value is None:
        return default
    constant = numpy_constant(value)
    if constant is None:
        raise at.unsupported(f"its input {index} must be a constant")
    return constant


RULES: dict[str, Rule] = {
    "CumSum": cumulative_sum,
    "DepthToSpace": depth_to_space,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Tile": tile,
    "Trilu": trilu,
}
