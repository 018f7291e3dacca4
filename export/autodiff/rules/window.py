"""The geometry that convolutions and pools share: a window that slides over the spatial axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from klieg.export.autodiff.emitter import dims
from klieg.export.autodiff.engine import Pullback

Sizes = NDArray[np.int64]  # [spatial axes]


@dataclass(frozen=True)
class Window:
    """A sliding window; every field has one entry per spatial axis."""

    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    begins: Sizes
    ends: Sizes
    front: ir.Value | None = None
    """The padding in front where it is known at run time only; `begins` and `ends` then bound it.
    """

    @property
    def reach(self) -> Sizes:
        """Number of cells from the first to the last cell under the window, less one."""
        return self.dilations * (self.kernel - 1)

    @property
    def pads(self) -> list[int]:
        """Padding as the operators want it: all begins, then all ends."""
        return [*self.begins.tolist(), *self.ends.tolist()]


def window_of(at: Pullback, kernel: list[int]) -> Window:
    """Read the window of a Conv or pool node, automatic padding resolved."""
    axes = len(kernel)
    size = np.array(kernel, dtype=np.int64)
    strides = np.array(at.attribute("strides", [1] * axes), dtype=np.int64)
    dilations = np.array(at.attribute("dilations", [1] * axes), dtype=np.int64)
    automatic = at.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        unpadded = Window(size, strides, dilations, np.zeros_like(size), np.zeros_like(size))
        return _same_padding(at, unpadded, larger_first=automatic == "SAME_LOWER")
    pads = np.array(at.attribute("pads", [0] * 2 * axes), dtype=np.int64)
    if automatic == "VALID":
        pads = np.zeros_like(pads)
    return Window(size, strides, dilations, pads[:axes], pads[axes:])


def scatter(
    at: Pullback, values: ir.Value, weight: ir.Value, window: Window, *, group: int = 1
) -> ir.Value:
    """Add the entry of every window position to the cells of x that the window covers there.

    Args:
        at: The arguments of the rule; its node slides `window` over x.
        values: One entry per window position [n, m, *y's spatial axes].
        weight: Weight of each cell under the window [m, c / group, *kernel].
        window: The window.
        group: Number of independent groups of channels.

    Returns:
        [n, c, *x's spatial axes].
    """
    op, axes = at.op, len(window.kernel)
    cells, positions = fixed_sizes(at.x, axes), fixed_sizes(at.y, axes)
    begins, cut = window.begins, False
    # rest: cells of x behind the last window (> 0), or of the last window behind x (< 0)
    if cells is not None and positions is not None:
        rest = begins + cells - ((positions - 1) * window.strides + window.reach + 1)
    elif window.front is not None:
        rest, cut = np.maximum(window.strides - window.reach - 1, 0), True
        begins = np.zeros_like(begins)
    else:
        # It depends on the size at run time: the largest it can be, then cut.
        rest = window.strides - 1 - window.ends
        cut = bool((window.strides > 1).any()) or bool(at.attribute("ceil_mode", 0))
    spread = op.ConvTranspose(
        values,
        weight,
        pads=[*begins.tolist(), *np.maximum(-rest, 0).tolist()],
        output_padding=np.maximum(rest, 0).tolist(),
        strides=window.strides.tolist(),
        dilations=window.dilations.tolist(),
        kernel_shape=window.kernel.tolist(),
        group=group,
    )
    if not cut:
        return spread
    spatial, sizes = list(range(2, axes + 2)), op.shape(at.x, 2)
    if window.front is None:
        return op.Slice(spread, [0] * axes, sizes, spatial)
    return op.Slice(spread, window.front, op.Add(window.front, sizes), spatial)


def fixed_sizes(value: ir.Value, axes: int) -> Sizes | None:
    """Return the sizes of the last axes if all are fixed."""
    sizes = dims(value)[-axes:]
    return None if None in sizes else np.array(sizes, dtype=np.int64)


def _same_padding(at: Pullback, window: Window, *, larger_first: bool) -> Window:
    """Pad such that there are ceil(size / stride) window positions."""
    op, axes = at.op, len(window.kernel)
    cells = fixed_sizes(at.x, axes)
    # total = max((positions - 1) stride + reach + 1 - cells, 0): at most the reach
    total, front = window.reach, None
    if cells is not None:
        positions = -(-cells // window.strides)
        last = (positions - 1) * window.strides
        total = np.maximum(last + window.reach + 1 - cells, 0)
    elif (window.strides > 1).any():
        last_end = op.Mul(op.Shape(at.y, start=2), window.strides)
        surplus = op.Sub(
            op.Add(last_end, window.reach + 1 - window.strides), op.Shape(at.x, start=2)
        )
        front = op.Max(surplus, 0) if (window.reach + 1 < window.strides).any() else surplus
        front = op.Div(op.Add(front, 1) if larger_first else front, 2)
    smaller, larger = total // 2, total - total // 2
    begins, ends = (larger, smaller) if larger_first else (smaller, larger)
    return Window(window.kernel, window.strides, window.dilations, begins, ends, front)
