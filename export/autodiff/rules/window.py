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
    pads = np.array(at.attribute("pads", [0] * 2 * axes), dtype=np.int64)
    automatic = at.attribute("auto_pad", "NOTSET")
    if automatic == "VALID":
        pads = np.zeros_like(pads)
    elif automatic in ("SAME_UPPER", "SAME_LOWER"):
        total = _same_padding(at, dilations * (size - 1) + 1, strides)
        smaller, larger = total // 2, total - total // 2
        order = (smaller, larger) if automatic == "SAME_UPPER" else (larger, smaller)
        pads = np.concatenate(order)
    return Window(size, strides, dilations, pads[:axes], pads[axes:])


def scatter(
    at: Pullback, values: ir.Value, weight: ir.Value, window: Window, *, group: int = 1
) -> ir.Value:
    """Add what every window position holds onto the cells of x that the position covers.

    Args:
        at: The question; its node slides `window` over x.
        values: One entry per window position [n, m, *y's spatial axes].
        weight: Weight of each cell under the window [m, c / group, *kernel].
        window: The window.
        group: Number of independent groups of channels.

    Returns:
        [n, c, *x's spatial axes].
    """
    op, axes = at.op, len(window.kernel)
    attributes = {
        "strides": window.strides.tolist(),
        "dilations": window.dilations.tolist(),
        "kernel_shape": window.kernel.tolist(),
        "group": group,
    }
    cells, positions = _fixed(at.x, axes), _fixed(at.y, axes)
    if cells is not None and positions is not None:
        # cells of x behind the last window (> 0), or of the last window behind x (< 0)
        rest = window.begins + cells - ((positions - 1) * window.strides + window.reach + 1)
    elif (window.strides == 1).all() and not at.attribute("ceil_mode", 0):
        rest = -window.ends
    else:
        # The rest depends on the size at run time: make it long enough, then cut.
        pads = [*window.begins.tolist(), *[0] * axes]
        spread = op.ConvTranspose(values, weight, pads=pads, **attributes)
        if (window.strides > 1).any():
            none = [0] * (axes + 2)
            spread = op.Pad(spread, [*none, 0, 0, *(window.strides - 1).tolist()], 0.0)
        spatial = list(range(2, axes + 2))
        return op.Slice(spread, [0] * axes, op.shape(at.x, 2), spatial)
    pads = [*window.begins.tolist(), *np.maximum(-rest, 0).tolist()]
    extra = np.maximum(rest, 0).tolist()
    return op.ConvTranspose(values, weight, pads=pads, output_padding=extra, **attributes)


def _same_padding(at: Pullback, extent: Sizes, strides: Sizes) -> Sizes:
    """Return the total padding that gives ceil(size / stride) window positions."""
    if (strides == 1).all():
        return extent - 1
    cells = _fixed(at.x, len(extent))
    if cells is None:
        raise at.unsupported(
            "automatic padding with a stride needs a fixed image size; fix the size of the input"
        )
    positions = -(-cells // strides)
    return np.asarray(np.maximum((positions - 1) * strides + extent - cells, 0))


def _fixed(value: ir.Value, axes: int) -> Sizes | None:
    """Return the spatial sizes if all are fixed."""
    sizes = dims(value)[-axes:]
    return None if None in sizes else np.array(sizes, dtype=np.int64)
