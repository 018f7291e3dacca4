"""Pools over a sliding window. Each channel is treated as an image of its own."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from klieg.export.autodiff.emitter import dims
from klieg.export.autodiff.engine import Pullback, Rule
from klieg.export.autodiff.rules.window import Window, scatter, window_of

_PER_CHANNEL: Final = [-1, 1]  # [batch * channels, 1, ...]


def max_pool(at: Pullback) -> ir.Value:
    """y = maximum under the window: g to the first cell, in reading order, that equals y.

    The first of several equal cells is what torch chooses; after a Relu ties of zeros are common.
    """
    if at.attribute("storage_order", 0):
        raise at.unsupported("column-major storage order has no rule")
    op, window = at.op, window_of(at, list(at.attribute("kernel_shape", [])))
    axes = len(window.kernel)
    y, g = _single(at, at.y), _single(at, at.g)
    padded = _padded(at, window)
    ends_of_first = _positions_end(at, window)
    spatial = list(range(2, 2 + axes))
    hits: list[ir.Value] = []
    seen: ir.Value | None = None
    for offset in itertools.product(*(range(size) for size in window.kernel)):
        start = np.array(offset, dtype=np.int64) * window.dilations
        end = _plus(at, ends_of_first, start)
        cell = op.Slice(padded, start, end, spatial, window.strides)
        hit = op.Equal(cell, y)
        first = hit if seen is None else op.And(hit, op.Not(seen))
        seen = hit if seen is None else op.Or(seen, hit)
        hits.append(op.Where(first, g, 0.0))
    taps = len(hits)
    kernel_shape = (taps, 1, *window.kernel)
    one_cell_each = np.eye(taps, dtype=_numpy_type(at.x)).reshape(kernel_shape)
    spread = scatter(at, op.Concat(*hits, axis=1), op.constant(one_cell_each), window)
    return op.reshape(spread, at.x)


def average_pool(at: Pullback) -> ir.Value:
    """y = mean under the window: g / n to every cell, n the number of cells counted."""
    op, window = at.op, window_of(at, list(at.attribute("kernel_shape", [])))
    dtype = _numpy_type(at.x)
    ones = op.constant(np.ones((1, 1, *window.kernel), dtype=dtype))
    share = op.Div(_single(at, at.g), _counts(at, window, ones))
    return op.reshape(scatter(at, share, ones, window), at.x)


def _single(at: Pullback, value: ir.Value) -> ir.Value:
    """Reshape [batch, channels, ...] to [batch * channels, 1, ...]."""
    return at.op.Reshape(value, [*_PER_CHANNEL, *[0] * (len(dims(at.x)) - 2)])


def _padded(at: Pullback, window: Window) -> ir.Value:
    """Return x as single channels within a border that no maximum comes from."""
    ends = window.ends + (window.strides - 1 if at.attribute("ceil_mode", 0) else 0)
    x = _single(at, at.x)
    if not window.begins.any() and not ends.any():
        return x
    lowest = at.op.constant(np.array(np.finfo(_numpy_type(at.x)).min, dtype=_numpy_type(at.x)))
    return at.op.Pad(x, [0, 0, *window.begins.tolist(), 0, 0, *ends.tolist()], lowest)


def _positions_end(at: Pullback, window: Window) -> ir.Value | NDArray[np.int64]:
    """Return, per axis, one past the first cell of the last window: (positions - 1) stride + 1."""
    positions = at.op.shape(at.y, 2)
    if isinstance(positions, np.ndarray):
        return (positions - 1) * window.strides + 1
    op = at.op
    return op.Sub(op.Mul(positions, op.constant(window.strides)), op.constant(window.strides - 1))


def _plus(
    at: Pullback, a: ir.Value | NDArray[np.int64], b: NDArray[np.int64]
) -> ir.Value | NDArray[np.int64]:
    if isinstance(a, np.ndarray):
        return a + b
    return at.op.Add(a, at.op.constant(b)) if b.any() else a


def _counts(at: Pullback, window: Window, ones: ir.Value) -> ir.Value | float:
    """Return the number of cells that each window position averages."""
    with_pads = bool(at.attribute("count_include_pad", 0))
    ceil_mode = bool(at.attribute("ceil_mode", 0))
    if not ceil_mode and (with_pads or not any(window.pads)):
        return float(window.kernel.prod())
    if (window.dilations != 1).any():
        raise at.unsupported("an average pool with dilation and padding has no rule")
    op, axes = at.op, len(window.kernel)
    cells, positions = op.shape(at.x, 2), op.shape(at.y, 2)
    if isinstance(cells, np.ndarray) and isinstance(positions, np.ndarray):
        return op.constant(_fixed_counts(window, cells, positions, with_pads, _numpy_type(at.x)))
    if ceil_mode:
        raise at.unsupported("an average pool with ceil_mode needs a fixed image size")
    shape = op.Concat([1, 1], cells, axis=0)
    image = op.Expand(op.constant(np.ones([1] * (axes + 2), dtype=_numpy_type(at.x))), shape)
    return op.Conv(image, ones, strides=window.strides.tolist(), pads=window.pads)


def _fixed_counts(
    window: Window,
    cells: NDArray[np.int64],
    positions: NDArray[np.int64],
    with_pads: bool,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Count the cells of every window position that exist [1, 1, *positions]."""
    counts = np.ones([1, 1], dtype=dtype)
    for axis, count in enumerate(positions):
        first = np.arange(count) * window.strides[axis] - window.begins[axis]
        low = -window.begins[axis] if with_pads else 0
        high = cells[axis] + (window.ends[axis] if with_pads else 0)
        inside = np.minimum(first + window.kernel[axis], high) - np.maximum(first, low)
        counts = counts[..., None] * inside.astype(dtype)
    return counts


def _numpy_type(value: ir.Value) -> np.dtype[Any]:
    return (value.dtype or ir.DataType.FLOAT).numpy()


RULES: dict[str, Rule] = {"AveragePool": average_pool, "MaxPool": max_pool}
