"""Reductions over axes; a mean makes the gradient constant along what it averaged."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import dims, numpy_constant
from klieg.export.autodiff.engine import Cotangent, Pullback, Rule


def reduce_mean(at: Pullback) -> Cotangent:
    """y = mean of x over axes: g / n, the same for all n elements."""
    axes = _axes(at)
    return _spread(at, at.op.Div(at.g, _count(at, axes)), axes) if axes else at.compact


def reduce_sum(at: Pullback) -> Cotangent:
    """y = sum of x over axes: g, the same for all elements."""
    axes = _axes(at)
    return _spread(at, at.g, axes) if axes else at.compact


def global_average_pool(at: Pullback) -> Cotangent:
    """y = mean of x over the spatial axes, kept with size 1: g / n."""
    axes = list(range(2, len(dims(at.x))))
    return Cotangent(at.op.Div(at.g, _count(at, axes)), frozenset(axes))


def global_max_pool(at: Pullback) -> ir.Value:
    """y = maximum of x over the spatial axes: g at the first maximum."""
    op = at.op
    flat = op.Flatten(op.Reshape(at.x, [0, 0, -1]), axis=2)  # [batch * channels, cells]
    first = op.ArgMax(flat, axis=1, keepdims=1)
    place = op.Range(0, op.Squeeze(op.Shape(flat, start=1), [0]), 1)
    hit = op.Where(op.Equal(place, first), op.Reshape(at.g, [-1, 1]), 0.0)
    return op.reshape(hit, at.x)


def reduce_extreme(at: Pullback) -> ir.Value:
    """y = maximum or minimum of x over axes: g to the cells that equal y, in parts if several."""
    axes = _axes(at)
    if not axes:
        return at.g
    op = at.op
    y, g = (_kept(at, value, axes) for value in (at.y, at.g))
    hits = op.Cast(op.Equal(at.x, y), to=int(at.dtype))
    return op.Mul(hits, op.Div(g, op.ReduceSum(hits, axes, keepdims=1)))


def reduce_prod(at: Pullback) -> ir.Value:
    """y = product of x over axes: g times the product of the others, zeros among them or not."""
    axes = _axes(at)
    if not axes:
        return at.g
    op = at.op
    is_zero = op.Equal(at.x, 0.0)
    zero = op.Cast(is_zero, to=int(at.dtype))
    others_without_zero = op.Equal(op.ReduceSum(zero, axes, keepdims=1), zero)
    filled = op.Where(is_zero, 1.0, at.x)
    others = op.Div(op.ReduceProd(filled, axes, keepdims=1), filled)
    return op.Where(others_without_zero, op.Mul(others, _kept(at, at.g, axes)), 0.0)


def reduce_l1(at: Pullback) -> ir.Value:
    """y = sum of |x| over axes: g sign(x)."""
    return at.op.Mul(_kept(at, at.g, _axes(at)), at.op.Sign(at.x))


def reduce_l2(at: Pullback) -> ir.Value:
    """y = square root of the sum of x^2 over axes: g x / y, and 0 where y = 0."""
    return _through_length(at, _axes(at))


def reduce_sum_square(at: Pullback) -> ir.Value:
    """y = sum of x^2 over axes: 2 g x."""
    return at.op.Mul(at.x, at.op.Mul(_kept(at, at.g, _axes(at)), 2.0))


def reduce_log_sum(at: Pullback) -> ir.Value | Cotangent:
    """y = log of the sum of x over axes: g / sum, the same for all elements."""
    axes = _axes(at)
    if not axes:
        return at.op.Div(at.g, at.x)
    total = at.op.ReduceSum(at.x, axes, keepdims=1)
    return Cotangent(at.op.Div(_kept(at, at.g, axes), total), frozenset(axes))


def reduce_log_sum_exp(at: Pullback) -> ir.Value:
    """y = log of the sum of exp(x) over axes: g exp(x - y)."""
    op, axes = at.op, _axes(at)
    return op.Mul(_kept(at, at.g, axes), op.Exp(op.Sub(at.x, _kept(at, at.y, axes))))


def global_lp_pool(at: Pullback) -> ir.Value:
    """y = (sum of |x|^p over the spatial axes)^(1/p): g sign(x) (|x| / y)^(p-1), 0 where y = 0."""
    op, p = at.op, int(at.attribute("p", 2))
    if p == 1:
        return op.Mul(at.g, op.Sign(at.x))
    if p == 2:
        return _through_length(at, [])
    part = op.Div(op.Abs(at.x), op.Where(op.Equal(at.y, 0.0), 1.0, at.y))
    return op.Mul(at.g, op.Mul(op.Sign(at.x), op.Pow(part, float(p - 1))))


def _through_length(at: Pullback, squeezed: list[int]) -> ir.Value:
    """Return g x / y for a length y; where it is 0, so is x, and any divisor gives 0."""
    op = at.op
    divisor = op.Where(op.Equal(at.y, 0.0), 1.0, at.y)
    return op.Mul(at.x, _kept(at, op.Div(at.g, divisor), squeezed))


def _kept(at: Pullback, value: ir.Value, axes: list[int]) -> ir.Value:
    """Bring a value of y's shape back to the rank of x, with size 1 on the reduced axes."""
    if at.attribute("keepdims", 1) or not axes:
        return value
    return at.op.Unsqueeze(value, axes)


def _axes(at: Pullback) -> list[int]:
    """Return the reduced axes; none at all means the operator copies its input."""
    rank = len(dims(at.x))
    given = at.optional_input(1)
    axes = np.array([], dtype=np.int64) if given is None else numpy_constant(given)
    if axes is None:
        raise at.unsupported("the axes must be constants")
    if axes.size == 0:
        return [] if at.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in axes)


def _spread(at: Pullback, value: ir.Value, axes: list[int]) -> Cotangent:
    """Bring a gradient of y's shape back to the rank of x, constant along the reduced axes."""
    return Cotangent(_kept(at, value, axes), frozenset(axes))


def _count(at: Pullback, axes: list[int]) -> ir.Value | float:
    """Return the number of elements that one output element averages."""
    sizes = [dims(at.x)[axis] for axis in axes]
    if None not in sizes:
        return float(np.prod([size for size in sizes if size is not None]))
    op = at.op
    product = op.ReduceProd(op.Gather(op.Shape(at.x), axes), keepdims=0)
    return op.Cast(product, to=int(at.dtype))


RULES: dict[str, Rule] = {
    "GlobalAveragePool": global_average_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_max_pool,
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceLogSum": reduce_log_sum,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "ReduceMax": reduce_extreme,
    "ReduceMean": reduce_mean,
    "ReduceMin": reduce_extreme,
    "ReduceProd": reduce_prod,
    "ReduceSum": reduce_sum,
    "ReduceSumSquare": reduce_sum_square,
}
