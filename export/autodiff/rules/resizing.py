"""Resizing: along every axis a product with a matrix of interpolation weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import Emitter, dims, numpy_constant
from klieg.export.autodiff.engine import Pullback, Rule

_TO_CENTRE = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")


def resize(at: Pullback) -> ir.Value:
    """y = M x along every resized axis: M^T g.

    M [out, in] holds the weights of the cells of x that a cell of y is interpolated from. It is
    computed in the graph from the sizes, and folds to a constant where they are fixed.
    """
    at.require(at.index == 0, "its sizes cannot carry a gradient")
    at.require(not at.attribute("antialias", 0), "resizing with antialias has no rule")
    value = at.g
    for axis, scale in _resized(at):
        value = _transposed_product(at, value, _weights(at, axis, scale), axis)
    return value


def _resized(at: Pullback) -> list[tuple[int, float | None]]:
    """Return the axes that are resized, with the scale if it is given rather than the size."""
    rank = len(dims(at.x))
    axes = [axis % rank for axis in at.attribute("axes", range(rank))]
    given = at.optional_input(2)
    scales = numpy_constant(given)
    if given is not None and scales is None and at.optional_input(3) is None:
        raise at.unsupported("its scales must be constants, or sizes be given")
    by_scale = scales is not None and scales.size > 0
    if not by_scale and at.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise at.unsupported("resizing that keeps the aspect ratio has no rule")
    found: list[tuple[int, float | None]] = []
    for place, axis in enumerate(axes):
        if by_scale and scales is not None:
            if scales[place] != 1:
                found.append((axis, float(scales[place])))
        elif axis != 0 and not _same_size(at, axis):
            found.append((axis, None))
    return found


def _same_size(at: Pullback, axis: int) -> bool:
    if at.x.shape is None or at.y.shape is None:
        return False
    before, after = at.x.shape[axis], at.y.shape[axis]
    named = isinstance(before, int) or before.value is not None
    return named and before == after


def _weights(at: Pullback, axis: int, scale: float | None) -> ir.Value:
    """Return M [out, in] of one axis."""
    op = at.op
    size, out = (_float(op, op.size(value, axis)) for value in (at.x, at.y))  # [1]
    ratio = op.constant(np.array([scale], np.float32)) if scale is not None else op.Div(out, size)
    places = op.Range(0.0, op.Squeeze(out, [0]), op.constant(np.array(1, np.float32)))
    source = _source(at, places, size, out, ratio)  # [out] in cells of x
    taps = _taps(at, source, size)
    cells = op.Range(0.0, op.Squeeze(size, [0]), op.constant(np.array(1, np.float32)))
    last = op.Sub(size, 1.0)
    inside = [op.Max(op.Min(cell, last), op.constant(np.zeros(1, np.float32))) for cell, _ in taps]
    matrix: ir.Value | None = None
    for cell, (_, weight) in zip(inside, taps, strict=True):
        hit = op.Equal(op.Unsqueeze(cell, [1]), cells)
        part = op.Where(hit, op.Unsqueeze(weight, [1]), 0.0)
        matrix = part if matrix is None else op.Add(matrix, part)
    return op.Cast(matrix, to=int(at.dtype))


def _source(
    at: Pullback, places: ir.Value, size: ir.Value, out: ir.Value, ratio: ir.Value
) -> ir.Value:
    """Return where in x, counted in cells, each cell of y lies."""
    op = at.op
    mode = at.attribute("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        return op.Div(places, ratio)
    if mode == "align_corners":
        steps = op.Max(op.Sub(out, 1.0), op.constant(np.ones(1, np.float32)))
        return op.Div(op.Mul(places, op.Sub(size, 1.0)), steps)
    at.require(mode in _TO_CENTRE, f"coordinate transformation {mode!r} has no rule")
    source = op.Sub(op.Div(op.Add(places, 0.5), ratio), 0.5)
    if mode == "pytorch_half_pixel":
        return op.Where(op.Greater(out, 1.0), source, 0.0)
    if mode == "half_pixel_symmetric":
        # The cells of y lie symmetrically in x although their number was rounded.
        adjustment = op.Div(out, op.Mul(ratio, size))
        offset = op.Mul(op.Mul(size, 0.5), op.Sub(1.0, adjustment))
        return op.Add(source, offset)
    return source


def _taps(at: Pullback, source: ir.Value, size: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
    """Return, per tap, its cell of x (perhaps outside) and its weight, both [out]."""
    op = at.op
    mode = at.attribute("mode", "nearest")
    if mode == "nearest":
        return [(_nearest(at, source), op.Add(op.Mul(source, 0.0), 1.0))]
    low = op.Floor(source)
    rest = op.Sub(source, low)  # 0..1
    if mode == "linear":
        return [(low, op.Sub(1.0, rest)), (op.Add(low, 1.0), rest)]
    a = float(at.attribute("cubic_coeff_a", -0.75))
    taps = []
    for offset in (-1.0, 0.0, 1.0, 2.0):
        distance = op.Abs(op.Sub(rest, offset))
        near = offset in (0.0, 1.0)
        taps.append((op.Add(low, offset), _cubic(op, distance, a, near=near)))
    if at.attribute("exclude_outside", 0):
        kept = []
        for cell, weight in taps:
            outside = op.Or(op.Less(cell, 0.0), op.GreaterOrEqual(cell, size))
            kept.append((cell, op.Where(outside, 0.0, weight)))
        total = op.Sum(*(weight for _, weight in kept))
        taps = [(cell, op.Div(weight, total)) for cell, weight in kept]
    return taps


def _cubic(op: Emitter, distance: ir.Value, a: float, *, near: bool) -> ir.Value:
    """Return the convolution kernel of Keys at a distance in 0..1 (near) or 1..2."""
    square = op.Mul(distance, distance)
    cube = op.Mul(square, distance)
    if near:
        return op.Add(op.Sub(op.Mul(cube, a + 2), op.Mul(square, a + 3)), 1.0)
    far = op.Add(op.Mul(op.Sub(cube, op.Mul(square, 5.0)), a), op.Mul(distance, 8 * a))
    return op.Sub(far, 4 * a)


def _nearest(at: Pullback, source: ir.Value) -> ir.Value:
    op = at.op
    rounding = at.attribute("nearest_mode", "round_prefer_floor")
    if rounding == "floor":
        return op.Floor(source)
    if rounding == "ceil":
        return op.Ceil(source)
    if rounding == "round_prefer_ceil":
        return op.Floor(op.Add(source, 0.5))
    return op.Ceil(op.Sub(source, 0.5))


def _transposed_product(at: Pullback, g: ir.Value, matrix: ir.Value, axis: int) -> ir.Value:
    """Multiply one axis of g [..., out, ...] with M^T."""
    op, rank = at.op, len(dims(at.x))
    if axis == rank - 1:
        return op.MatMul(g, matrix)
    if axis == rank - 2:
        return op.MatMul(op.Transpose(matrix, perm=[1, 0]), g)
    last = [other for other in range(rank) if other != axis] + [axis]
    product = op.MatMul(op.Transpose(g, perm=last), matrix)
    return op.Transpose(product, perm=[last.index(other) for other in range(rank)])


def _float(op: Emitter, size: np.ndarray | ir.Value) -> ir.Value:
    """Return sizes [n] as float32: coordinates are computed in it whatever the type of x."""
    if isinstance(size, np.ndarray):
        return op.constant(size.astype(np.float32))
    return op.Cast(size, to=int(ir.DataType.FLOAT))


RULES: dict[str, Rule] = {"Resize": resize}
