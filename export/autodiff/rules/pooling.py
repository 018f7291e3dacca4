"""Pools over a sliding window. Each channel is treated as an image of its own."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from klieg.export.autodiff.emitter import Size, dims
from klieg.export.autodiff.engine import Pullback, Rule
from klieg.export.autodiff.rules.window import Sizes, Window, fixed_sizes, scatter, window_of

_PER_CHANNEL: Final = [-1, 1]  # [batch * channels, 1, ...]


def max_pool(at: Pullback) -> ir.Value:
    """y = maximum under the window: g to the first cell, in reading order, that equals y.

    The first of several equal cells is what torch chooses; after a Relu ties of zeros are common.
    """
    at.require(
        not any(cotangent is not None for cotangent in at.cotangents[1:]),
        "the indices of its maxima lead to the score",
    )
    at.require(not at.attribute("storage_order", 0), "column-major storage order has no rule")
    op, window = at.op, _window(at)
    y, g = _single(at, at.y), _single(at, at.g)
    number = int(at.dtype)
    hits: list[ir.Value] = []
    seen: ir.Value | None = None
    for cell in _cells_by_blocks(at, window) or _cells_by_slices(at, window):
        hit = op.Equal(cell, y)
        first = hit if seen is None else op.And(hit, op.Not(seen))
        seen = hit if seen is None else op.Or(seen, hit)
        hits.append(op.Mul(op.Cast(first, to=number), g))  # faster than Where
    taps = len(hits)
    one_cell_each = np.eye(taps, dtype=at.dtype.numpy()).reshape(taps, 1, *window.kernel)
    spread = scatter(at, op.Concat(*hits, axis=1), op.constant(one_cell_each), window)
    return op.reshape(spread, at.x)


def average_pool(at: Pullback) -> ir.Value:
    """y = mean under the window: g / n to every cell, n the number of cells counted."""
    window = _window(at)
    number = _counts(at, window)
    if isinstance(number, float) and _mirrors(at, window):
        # Every cell is under as many windows as a window has cells: a mean again.
        return at.op.AveragePool(
            at.g,
            kernel_shape=window.kernel.tolist(),
            pads=[*(window.reach - window.begins).tolist(), *(window.reach - window.ends).tolist()],
            count_include_pad=1,
        )
    return _sum_over_windows(at, at.op.Div(_single(at, at.g), number), window)


def lp_pool(at: Pullback) -> ir.Value:
    """y = (sum of |x|^p under the window)^(1/p): sign(x) |x|^(p-1) times the sum of g y^(1-p).

    Where a window holds nothing but zeros its part of the gradient is 0.
    """
    op, p = at.op, int(at.attribute("p", 2))
    window = _window(at)
    if p == 1:
        return op.Mul(op.Sign(at.x), _sum_over_windows(at, _single(at, at.g), window))
    below = at.y if p == 2 else op.Pow(at.y, float(p - 1))
    share = op.Div(at.g, op.Where(op.Greater(below, 0.0), below, 1.0))
    slope = at.x if p == 2 else op.Mul(op.Sign(at.x), op.Pow(op.Abs(at.x), float(p - 1)))
    return op.Mul(slope, _sum_over_windows(at, _single(at, share), window))


def _window(at: Pullback) -> Window:
    """Read the window; refuse the two uses whose result differs from engine to engine."""
    window = window_of(at, list(at.attribute("kernel_shape", [])))
    axes = len(window.kernel)
    if (window.dilations > 1).any() and str(at.attribute("auto_pad", "")).startswith("SAME"):
        raise at.unsupported("engines disagree about dilation with automatic padding")
    cells, positions = fixed_sizes(at.x, axes), fixed_sizes(at.y, axes)
    if cells is not None and positions is not None:
        last_start = (positions - 1) * window.strides
        if at.attribute("ceil_mode", 0) and (last_start >= cells + window.begins).any():
            raise at.unsupported("engines disagree whether its last window, all padding, counts")
    return window


def _single(at: Pullback, value: ir.Value) -> ir.Value:
    """Reshape [batch, channels, ...] to [batch * channels, 1, ...]."""
    return at.op.Reshape(value, [*_PER_CHANNEL, *[0] * (len(dims(at.x)) - 2)])


def _cells_by_blocks(at: Pullback, window: Window) -> list[ir.Value]:
    """Return the cells under all windows, tap by tap, if the windows are square tiles; else none.

    Moving blocks into channels reads the image once; strided slices read it once per tap.
    """
    block = int(window.kernel[0])
    if (
        len(window.kernel) != 2
        or block == 1
        or (window.kernel != block).any()
        or (window.strides != block).any()
        or (window.dilations != 1).any()
        or any(window.pads)
        or window.front is not None
        or at.attribute("ceil_mode", 0)
    ):
        return []
    op, x = at.op, _single(at, at.x)
    cells, positions = fixed_sizes(at.x, 2), fixed_sizes(at.y, 2)
    if cells is None or positions is None:
        covered = op.Mul(op.Shape(at.y, start=2), window.strides)
        x = op.Slice(x, [0, 0], covered, [2, 3])
    elif (positions * block != cells).any():
        x = op.Slice(x, [0, 0], positions * block, [2, 3])
    blocks = op.SpaceToDepth(x, blocksize=block)  # [batch * channels, taps, *positions]
    return [op.Slice(blocks, [tap], [tap + 1], [1]) for tap in range(block * block)]


def _cells_by_slices(at: Pullback, window: Window) -> list[ir.Value]:
    """Return the cells under all windows [batch * channels, 1, *positions], tap by tap."""
    op, axes = at.op, len(window.kernel)
    x = _single(at, at.x)
    ends = window.ends + (window.strides - 1 if at.attribute("ceil_mode", 0) else 0)
    if window.begins.any() or ends.any():
        lowest = np.array(np.finfo(at.dtype.numpy()).min, dtype=at.dtype.numpy())
        x = op.Pad(x, [0, 0, *window.begins.tolist(), 0, 0, *ends.tolist()], op.constant(lowest))
    starts: Size = np.zeros(axes, dtype=np.int64)
    if window.front is not None:
        starts = op.Sub(window.begins, window.front)
    positions = at.op.shape(at.y, 2)
    if isinstance(positions, np.ndarray):
        length: Size = (positions - 1) * window.strides + 1
    else:
        length = op.Sub(op.Mul(positions, window.strides), window.strides - 1)
    cells = []
    for offset in itertools.product(*(range(size) for size in window.kernel)):
        start = op.add(starts, np.array(offset, dtype=np.int64) * window.dilations)
        end = op.add(length, start)
        cells.append(op.Slice(x, start, end, list(range(2, 2 + axes)), window.strides))
    return cells


def _mirrors(at: Pullback, window: Window) -> bool:
    """Return whether summing over the windows of a cell is a window of the same kernel."""
    return bool(
        (window.strides == 1).all()
        and (window.dilations == 1).all()
        and (window.begins <= window.reach).all()
        and (window.ends <= window.reach).all()
        and not at.attribute("ceil_mode", 0)
    )


def _sum_over_windows(at: Pullback, share: ir.Value, window: Window) -> ir.Value:
    """Give every cell the sum of `share` [batch * channels, 1, *positions] over its windows."""
    ones = at.op.constant(np.ones((1, 1, *window.kernel), dtype=at.dtype.numpy()))
    return at.op.reshape(scatter(at, share, ones, window), at.x)


def _counts(at: Pullback, window: Window) -> ir.Value | float:
    """Return the number of cells that each window position averages [1, 1, *positions]."""
    with_pads = bool(at.attribute("count_include_pad", 0))
    ceil_mode = bool(at.attribute("ceil_mode", 0))
    if not ceil_mode and (with_pads or not any(window.pads)):
        return float(window.kernel.prod())
    axes = len(window.kernel)
    cells, positions = fixed_sizes(at.x, axes), fixed_sizes(at.y, axes)
    dtype = at.dtype.numpy()
    if cells is not None and positions is not None:
        return at.op.constant(_fixed_counts(window, cells, positions, with_pads, dtype))
    return _counted(at, window, with_pads=with_pads, ceil_mode=ceil_mode)


def _fixed_counts(
    window: Window, cells: Sizes, positions: Sizes, with_pads: bool, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Count the cells of every window position that exist [1, 1, *positions]."""
    counts = np.ones([1, 1], dtype=dtype)
    for axis, count in enumerate(positions):
        first = np.arange(count) * window.strides[axis] - window.begins[axis]
        place = first[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        low = -window.begins[axis] if with_pads else 0
        high = cells[axis] + (window.ends[axis] if with_pads else 0)
        inside = ((place >= low) & (place < high)).sum(axis=1)
        counts = counts[..., None] * inside.astype(dtype)
    return counts


def _counted(at: Pullback, window: Window, *, with_pads: bool, ceil_mode: bool) -> ir.Value:
    """Count at run time: slide the window over an image of ones."""
    op, axes = at.op, len(window.kernel)
    dtype, spatial = at.dtype.numpy(), list(range(2, 2 + axes))
    sizes = at.op.shape(at.x, 2)
    begins, ends = window.begins, window.ends
    if with_pads:
        sizes, begins, ends = op.Add(sizes, begins + ends), begins * 0, ends * 0
    image = op.Expand(
        op.constant(np.ones([1] * (axes + 2), dtype)), op.Concat([1, 1], sizes, axis=0)
    )
    geometry = {
        "strides": window.strides.tolist(),
        "dilations": window.dilations.tolist(),
        "kernel_shape": window.kernel.tolist(),
    }
    ones = op.constant(np.ones((1, 1, *window.kernel), dtype=dtype))
    if window.front is not None:
        return op.Conv(image, ones, auto_pad=at.attribute("auto_pad", "NOTSET"), **geometry)
    if ceil_mode:  # room for a last window that hangs over the end
        ends = ends + window.strides - 1
    count = op.Conv(image, ones, pads=[*begins.tolist(), *ends.tolist()], **geometry)
    return op.Slice(count, [0] * axes, op.shape(at.y, 2), spatial) if ceil_mode else count


RULES: dict[str, Rule] = {"AveragePool": average_pool, "LpPool": lp_pool, "MaxPool": max_pool}
