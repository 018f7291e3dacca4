"""Operators that read or write entries by index.

Engines for devices refuse to scatter with sums, so what several copies of an entry got is added by
gathering the copies one after another, or by a product with the 0/1 matrix of (index, entry).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from klieg.export.autodiff.emitter import dims, numpy_constant
from klieg.export.autodiff.engine import Pullback, Rule

MOST_COPIES: Final = 8
"""Up to so many copies of one entry are gathered one by one, beyond it a product is cheaper."""


def gather(at: Pullback) -> ir.Value:
    """y holds x's entries at some indices of an axis: each entry gets the sum of its copies' g."""
    at.require(at.index == 0, "its indices cannot carry a gradient")
    rank = len(dims(at.x))
    axis = int(at.attribute("axis", 0)) % rank
    size = dims(at.x)[axis]
    g = _index_axes_flattened(at, axis)
    indices = numpy_constant(at.input(1))
    if indices is not None and size is not None:
        return _from_copies(at, g, indices.ravel() % size, axis, size)
    if indices is not None and indices.size == 1 and indices.item() >= 0:
        place = _places(at, axis, rank)
        return at.op.Where(at.op.Equal(place, np.array(indices.item())), g, 0.0)
    flat = at.op.Reshape(at.input(1), [-1])
    matrix = _is_entry(at, flat, axis)  # [indices, entries]
    return _product_along(at, g, matrix, axis)


def gather_elements(at: Pullback) -> ir.Value:
    """y[i, j] = x[index[i, j], j] along an axis: x[s, j] gets the sum of g[i, j] with index s."""
    at.require(at.index == 0, "its indices cannot carry a gradient")
    op, rank = at.op, len(dims(at.x))
    axis = int(at.attribute("axis", 0)) % rank
    others = [a for a in range(rank) if a != axis]
    pairs = [(dims(at.x)[a], dims(at.input(1))[a]) for a in others]
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise at.unsupported("its indices do not cover the other axes of its input")
    last = [*others, axis]
    index = op.Unsqueeze(op.Transpose(at.input(1), perm=last), [rank])  # [..., n, 1]
    matrix = op.Cast(_equals_entry(at, index, axis), to=int(at.dtype))  # [..., n, entries]
    g = op.Unsqueeze(op.Transpose(at.g, perm=last), [rank - 1])  # [..., 1, n]
    total = op.Squeeze(op.MatMul(g, matrix), [rank - 1])
    return op.Transpose(total, perm=[last.index(a) for a in range(rank)])


def scatter_nd(at: Pullback) -> ir.Value:
    """y is x with some entries replaced by updates: x gets g elsewhere, the updates g there."""
    at.require(
        at.attribute("reduction", "none") == "none", "scattering with a reduction has no rule"
    )
    if at.index == 2:
        return at.op.GatherND(at.g, at.input(1))
    return at.op.ScatterND(at.g, at.input(1), at.op.Mul(at.input(2), 0.0))


def scatter_elements(at: Pullback) -> ir.Value:
    """y is x with some entries replaced by updates: x gets g elsewhere, the updates g there."""
    at.require(
        at.attribute("reduction", "none") == "none", "scattering with a reduction has no rule"
    )
    axis = int(at.attribute("axis", 0))
    if at.index == 2:
        return at.op.GatherElements(at.g, at.input(1), axis=axis)
    return at.op.ScatterElements(at.g, at.input(1), at.op.Mul(at.input(2), 0.0), axis=axis)


def _index_axes_flattened(at: Pullback, axis: int) -> ir.Value:
    """Return g [..., indices, ...] with one axis for all indices, in place of `axis`."""
    op, index_rank = at.op, len(dims(at.input(1)))
    if index_rank == 1:
        return at.g
    if index_rank == 0:
        return op.Unsqueeze(at.g, [axis])
    rest = [*dims(at.x)[:axis], *dims(at.x)[axis + 1 :]]
    if None not in rest:
        fixed = [size for size in rest if size is not None]
        return op.Reshape(at.g, [*fixed[:axis], -1, *fixed[axis:]])
    parts = [op.size(at.x, a) for a in range(len(dims(at.x)))]
    parts[axis] = np.array([-1])
    return op.Reshape(at.g, op.join(parts))


def _from_copies(
    at: Pullback, g: ir.Value, indices: NDArray[np.int64], axis: int, size: int
) -> ir.Value:
    """Sum the copies of every entry, whose places in g are known."""
    op = at.op
    if np.array_equal(indices, np.arange(size)):
        return g
    copies = np.bincount(indices, minlength=size)
    if copies.max() > MOST_COPIES:
        matrix = np.zeros((len(indices), size), dtype=at.dtype.numpy())
        matrix[np.arange(len(indices)), indices] = 1
        return _product_along(at, g, op.constant(matrix), axis)
    order = np.argsort(indices, kind="stable")
    first = np.cumsum(copies) - copies  # where in `order` each entry's copies begin
    if copies.min() < copies.max():
        # Entries with fewer copies than others read a zero that is appended to g.
        pads = np.zeros((2, len(dims(at.x))), dtype=np.int64)
        pads[1, axis] = 1
        g = op.Pad(g, pads.ravel(), 0.0)
        order = np.append(order, len(indices))
    parts = []
    for number in range(int(copies.max())):
        place = np.where(copies > number, first + number, len(indices))
        parts.append(op.Gather(g, order[np.minimum(place, len(order) - 1)], axis=axis))
    return parts[0] if len(parts) == 1 else op.Sum(*parts)


def _product_along(at: Pullback, g: ir.Value, matrix: ir.Value, axis: int) -> ir.Value:
    """Multiply one axis of g [..., n, ...] with matrix [n, entries]."""
    rank = len(dims(at.x))
    last = [other for other in range(rank) if other != axis] + [axis]
    product = at.op.MatMul(at.op.Transpose(g, perm=last), matrix)
    return at.op.Transpose(product, perm=[last.index(other) for other in range(rank)])


def _is_entry(at: Pullback, indices: ir.Value, axis: int) -> ir.Value:
    """Return 1 where an index [n] names an entry of the axis, else 0: [n, entries]."""
    column = at.op.Unsqueeze(indices, [1])
    return at.op.Cast(_equals_entry(at, column, axis), to=int(at.dtype))


def _equals_entry(at: Pullback, column: ir.Value, axis: int) -> ir.Value:
    """Compare indices [..., 1], negative ones counted from the end, with all entries."""
    op = at.op
    column = op.Cast(column, to=int(ir.DataType.INT64))
    size = op.size(at.x, axis)
    column = op.Where(op.Less(column, 0), op.Add(column, size), column)
    return op.Equal(column, _places(at, 0, 1, size_axis=axis))


def _places(at: Pullback, axis: int, rank: int, *, size_axis: int | None = None) -> ir.Value:
    """Return 0, 1, 2, ... along one axis of as many axes as asked for."""
    op = at.op
    size = op.size(at.x, axis if size_axis is None else size_axis)
    if isinstance(size, np.ndarray):
        row: ir.Value = op.constant(np.arange(size[0]))
    else:
        row = op.Range(0, op.Squeeze(size, [0]), 1)
    return op.Unsqueeze(row, [a for a in range(rank) if a != axis]) if rank > 1 else row


RULES: dict[str, Rule] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
