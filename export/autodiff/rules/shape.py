"""Operators that move numbers without changing them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import Size, dims, numpy_constant
from klieg.export.autodiff.engine import Cotangent, Pullback, Rule


def reshape(at: Pullback) -> ir.Value:
    """y holds the elements of x in the same order: g in the shape of x."""
    return at.op.reshape(at.g, at.x)


def identity(at: Pullback) -> Cotangent:
    """y = x: g."""
    return at.compact


def dropout(at: Pullback) -> Cotangent:
    """y = x at inference: g."""
    training = at.optional_input(2)
    if training is not None and (
        (flag := numpy_constant(training)) is None or bool(flag.reshape(-1)[0])
    ):
        raise at.unsupported("it is in training mode; export the model in evaluation mode")
    return at.compact


def cast(at: Pullback) -> Cotangent:
    """y = x in another floating-point type: g in the type of x."""
    if at.x.dtype is None:
        raise at.unsupported("the type of its input is unknown")
    return Cotangent(at.op.Cast(at.compact.value, to=int(at.x.dtype)), at.compact.constant_axes)


def transpose(at: Pullback) -> Cotangent:
    """Y's axis i is x's axis perm[i]: g with the permutation undone."""
    rank = len(dims(at.x))
    perm = list(at.attribute("perm", range(rank)[::-1]))
    turned = at.op.Transpose(at.compact.value, perm=[perm.index(axis) for axis in range(rank)])
    return Cotangent(turned, frozenset(perm[axis] for axis in at.compact.constant_axes))


def concat(at: Pullback) -> Cotangent:
    """y holds the inputs one after another along an axis: each gets its part of g."""
    axis = int(at.attribute("axis", 0)) % len(dims(at.y))
    value, constant = at.compact.value, at.compact.constant_axes
    if axis in constant:
        value, constant = at.g, frozenset()
    op = at.op
    start: Size = np.zeros(1, dtype=np.int64)
    for before in range(at.index):
        start = op.add(start, op.size(at.input(before), axis))
    end = op.add(start, op.size(at.x, axis))
    return Cotangent(op.Slice(value, start, end, [axis]), constant)


def expand(at: Pullback) -> Cotangent:
    """y repeats x along axes: g summed over the repetitions."""
    return at.summed_to_input(at.compact)


RULES: dict[str, Rule] = {
    "Cast": cast,
    "Concat": concat,
    "Dropout": dropout,
    "Expand": expand,
    "Flatten": reshape,
    "Identity": identity,
    "Reshape": reshape,
    "Squeeze": reshape,
    "Transpose": transpose,
    "Unsqueeze": reshape,
}
