"""Convolution."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import dims
from klieg.export.autodiff.engine import Pullback, Rule
from klieg.export.autodiff.rules.window import Sizes, fixed_sizes, scatter, window_of

_BEFORE_THE_START: Final = -(2**31) + 1


def conv(at: Pullback) -> ir.Value:
    """y = sum over the window of w x: every cell gets the sum of w g over the windows it is in.

    With stride 1 that is again a convolution, with the weight mirrored in space and its channels
    exchanged, which engines run faster than a transposed one.
    """
    at.require(at.index == 0, "its weights depend on the tensor to differentiate by")
    weight = at.input(1)
    fixed = _fixed(at, weight)  # [m, c / group, *kernel]
    window = window_of(at, fixed[2:])
    group = int(at.attribute("group", 1))
    if (
        (window.strides != 1).any()
        or (window.begins > window.reach).any()
        or (window.ends > window.reach).any()
    ):
        return scatter(at, at.g, weight, window, group=group)
    pads = [*(window.reach - window.begins).tolist(), *(window.reach - window.ends).tolist()]
    return at.op.Conv(
        at.g,
        _mirrored(at, weight, fixed, group),
        pads=pads,
        dilations=window.dilations.tolist(),
        kernel_shape=window.kernel.tolist(),
        group=group,
    )


def _mirrored(at: Pullback, weight: ir.Value, sizes: list[int], group: int) -> ir.Value:
    """Turn [m, c / group, *kernel] into [c, m / group, *kernel] with the kernel mirrored."""
    op = at.op
    m, c, *kernel = sizes
    spatial = len(kernel)
    grouped = op.Reshape(weight, [group, m // group, c, *kernel]) if group > 1 else weight
    lead = [0, 2, 1] if group > 1 else [1, 0]
    swapped = op.Transpose(grouped, perm=[*lead, *range(len(lead), len(lead) + spatial)])
    if group > 1:
        swapped = op.Reshape(swapped, [group * c, m // group, *kernel])
    axes = [axis for axis in range(2, 2 + spatial) if sizes[axis] > 1]
    if not axes:
        return swapped
    back = [-1] * len(axes)
    return op.Slice(swapped, back, [_BEFORE_THE_START] * len(axes), axes, back)


def conv_transpose(at: Pullback) -> ir.Value:
    """y spreads x through the window: every cell of x collects w g from where it was spread."""
    at.require(at.index == 0, "its weights depend on the tensor to differentiate by")
    weight = at.input(1)
    kernel = _fixed(at, weight)[2:]
    axes = len(kernel)
    strides = np.array(at.attribute("strides", [1] * axes), dtype=np.int64)
    dilations = np.array(at.attribute("dilations", [1] * axes), dtype=np.int64)
    extra = np.array(at.attribute("output_padding", [0] * axes), dtype=np.int64)
    begins, ends = _transposed_pads(at, strides, dilations * (np.array(kernel) - 1) + 1, extra)
    collected = at.op.Conv(
        at.g,
        weight,
        strides=strides.tolist(),
        dilations=dilations.tolist(),
        kernel_shape=kernel,
        pads=[*begins.tolist(), *ends.tolist()],
        group=int(at.attribute("group", 1)),
    )
    if not (extra >= strides).any():
        return collected
    # Padding of a whole stride or more makes room for windows that x has no cell for.
    return at.op.Slice(collected, [0] * axes, at.op.shape(at.x, 2), list(range(2, 2 + axes)))


def _transposed_pads(
    at: Pullback, strides: Sizes, extent: Sizes, extra: Sizes
) -> tuple[Sizes, Sizes]:
    """Return the padding in front and behind of a ConvTranspose, which it cuts off."""
    axes = len(strides)
    automatic = at.attribute("auto_pad", "NOTSET")
    wanted = at.attribute("output_shape", None)
    if wanted is not None:
        cells = fixed_sizes(at.x, axes)
        if cells is None:
            raise at.unsupported("a given output shape needs a fixed image size")
        total = strides * (cells - 1) + extra + extent - np.array(wanted)[-axes:]
    elif automatic in ("SAME_UPPER", "SAME_LOWER"):
        if extra.any() or (extent < strides).any():
            raise at.unsupported("engines disagree about the size that its automatic padding gives")
        total = extent - strides  # stride times as many cells come out as went in
    elif automatic == "VALID":
        total = np.zeros_like(strides)
    else:
        pads = np.array(at.attribute("pads", [0] * 2 * axes), dtype=np.int64)
        return pads[:axes], pads[axes:]
    total = np.maximum(total, 0)
    smaller, larger = total // 2, total - total // 2
    return (smaller, larger) if automatic == "SAME_UPPER" else (larger, smaller)


def _fixed(at: Pullback, weight: ir.Value) -> list[int]:
    """Return the shape of the weight, which must be known."""
    sizes = dims(weight)
    if None in sizes:
        raise at.unsupported("the shape of its weight is unknown")
    return [size for size in sizes if size is not None]


RULES: dict[str, Rule] = {"Conv": conv, "ConvTranspose": conv_transpose}
