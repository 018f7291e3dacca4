"""Padding: a border of constants, or of copies of cells inside."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import Size, dims, numpy_constant
from klieg.export.autodiff.engine import Pullback, Rule
from klieg.export.autodiff.rules.selection import BEFORE_THE_START


def pad(at: Pullback) -> ir.Value:
    """y is x within a border: the inner part of g, plus what the border took from x."""
    at.require(at.index == 0, "the amounts and the value of padding cannot carry a gradient")
    rank = len(dims(at.x))
    given = at.optional_input(3)
    axes = np.arange(rank) if given is None else numpy_constant(given)
    if axes is None:
        raise at.unsupported("the padded axes must be constants")
    axes = axes % rank
    pads = numpy_constant(at.input(1))
    mode = at.attribute("mode", "constant")
    if pads is None:
        return _computed_amounts(at, axes, mode)
    begins, ends = pads[: len(axes)], pads[len(axes) :]
    value = at.g
    for axis, begin, end in zip(axes.tolist(), begins.tolist(), ends.tolist(), strict=True):
        if mode == "constant" or min(begin, end) < 0:
            at.require(mode == "constant", f"negative amounts in mode {mode!r} have no rule")
            continue
        value = _fold_border_back(at, value, axis, begin, end, mode)
    return _inner(at, value, axes, begins, ends) if mode == "constant" else value


def _inner(
    at: Pullback, value: ir.Value, axes: np.ndarray, begins: np.ndarray, ends: np.ndarray
) -> ir.Value:
    """Cut a border of constants off; cells that a negative amount cut off get zeros."""
    op = at.op
    if (begins > 0).any() or (ends > 0).any():
        used = (begins > 0) | (ends > 0)
        stops = np.where(ends > 0, -np.maximum(ends, 0), 2**31 - 1)
        value = op.Slice(value, np.maximum(begins, 0)[used], stops[used], axes[used])
    if (begins < 0).any() or (ends < 0).any():
        amounts = np.zeros((2, len(dims(at.x))), dtype=np.int64)
        amounts[0, axes], amounts[1, axes] = np.maximum(-begins, 0), np.maximum(-ends, 0)
        value = op.Pad(value, amounts.ravel(), 0.0)
    return value


def _computed_amounts(at: Pullback, axes: np.ndarray, mode: str) -> ir.Value:
    """Cut a border off whose width is known at run time only."""
    at.require(mode == "constant", f"padding by computed amounts in mode {mode!r} has no rule")
    op, count = at.op, len(axes)
    begins = op.Slice(at.input(1), [0], [count], [0])
    sizes = op.join([op.size(at.x, axis) for axis in axes.tolist()])
    return op.Slice(at.g, begins, op.add(begins, sizes), axes)


def _fold_border_back(
    at: Pullback, g: ir.Value, axis: int, begin: int, end: int, mode: str
) -> ir.Value:
    """Add the gradient of a border to the cells inside that the border repeats.

    Args:
        at: The arguments of the rule.
        g: Gradient whose axes up to this one have the size of x already, or are not padded.
        axis: The axis.
        begin: Cells in front.
        end: Cells behind.
        mode: "reflect", "edge" or "wrap".
    """
    op = at.op
    size = op.size(at.x, axis)
    behind = op.add(size, np.array([begin]))

    def cut(start: Size, stop: Size) -> ir.Value:
        return op.Slice(g, start, stop, [axis])

    parts = [cut(np.array([begin]), behind)]
    for is_front, amount in ((True, begin), (False, end)):
        if not amount:
            continue
        border = (
            cut(np.array([0]), np.array([begin]))
            if is_front
            else cut(behind, op.add(behind, np.array([end])))
        )
        length = amount
        if mode == "reflect":
            border = op.Slice(border, [-1], [BEFORE_THE_START], [axis], [-1])
        elif mode == "edge":
            border, length = op.ReduceSum(border, [axis], keepdims=1), 1
        elif mode != "wrap":
            raise at.unsupported(f"padding mode {mode!r} has no rule")
        offset = 1 if mode == "reflect" else 0
        rest = op.subtract(size, np.array([length + offset]))
        at_start = is_front != (mode == "wrap")
        near: Size = np.array([offset])
        parts.append(_placed(at, border, axis, *((near, rest) if at_start else (rest, near))))
    return parts[0] if len(parts) == 1 else op.Sum(*parts)


def _placed(at: Pullback, part: ir.Value, axis: int, before: Size, after: Size) -> ir.Value:
    """Return a part of an axis within zeros."""
    none = np.zeros(axis, dtype=np.int64)
    rest = np.zeros(len(dims(at.x)) - axis - 1, dtype=np.int64)
    return at.op.Pad(part, at.op.join([none, before, rest, none, after, rest]), 0.0)


RULES: dict[str, Rule] = {"Pad": pad}
