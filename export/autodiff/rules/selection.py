"""Operators that take parts of a tensor, or repeat them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import dims, numpy_constant
from klieg.export.autodiff.engine import Pullback, Rule


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
    """y is a part of x with stride 1: g within zeros."""
    rank = len(dims(at.x))
    starts, ends = (numpy_constant(at.input(i)) for i in (1, 2))
    axes = _constant_or(at, 3, np.arange(0 if starts is None else len(starts)))
    steps = _constant_or(at, 4, np.ones_like(axes))
    if starts is None or ends is None:
        raise at.unsupported("the limits of the slice must be constants")
    if (steps != 1).any():
        raise at.unsupported("a slice with steps other than 1 has no rule")
    before, after = np.zeros(rank, dtype=np.int64), np.zeros(rank, dtype=np.int64)
    for axis, start, end in zip(axes % rank, starts, ends, strict=True):
        size = dims(at.x)[axis]
        if size is not None:
            first, last, _ = slice(int(start), int(end)).indices(size)
            before[axis], after[axis] = first, size - max(last, first)
        elif start >= 0 and end < 0:
            before[axis], after[axis] = start, -end
        elif start >= 0 and end >= 2**31 - 1:
            before[axis] = start
        else:
            raise at.unsupported("its limits depend on a size that is known at run time only")
    return at.op.Pad(at.g, [*before.tolist(), *after.tolist()], 0.0)


def gather(at: Pullback) -> ir.Value:
    """y holds x's entries at some indices of an axis: each entry gets the sum of its copies' g.

    Written as a product with the 0/1 matrix of (index, entry), because engines for devices refuse
    to scatter with sums.
    """
    if at.index != 0:
        raise at.unsupported("its indices cannot carry a gradient")
    indices = numpy_constant(at.input(1))
    rank = len(dims(at.x))
    axis = int(at.attribute("axis", 0)) % rank
    size = dims(at.x)[axis]
    if indices is None or indices.ndim > 1 or size is None:
        raise at.unsupported("the indices must be constants of rank 0 or 1, the axis of fixed size")
    op = at.op
    g = op.Unsqueeze(at.g, [axis]) if indices.ndim == 0 else at.g
    chosen = np.atleast_1d(indices) % size
    matrix = np.zeros((len(chosen), size), dtype=(at.x.dtype or ir.DataType.FLOAT).numpy())
    matrix[np.arange(len(chosen)), chosen] = 1
    last = [other for other in range(rank) if other != axis] + [axis]
    product = op.MatMul(op.Transpose(g, perm=last), op.constant(matrix))
    return op.Transpose(product, perm=[last.index(other) for other in range(rank)])


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
    "DepthToSpace": depth_to_space,
    "Gather": gather,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Tile": tile,
}
