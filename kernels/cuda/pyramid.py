"""Images brought to one scale of a pyramid and normalised, in one kernel."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from klieg.errors import ImageError, OptionError
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.strips import ROWS, strip
from klieg.kernels.device.array import DeviceArray

LARGEST_SIDE: Final = 2**14
"""Pixels; pixel positions are then exact (resampling.cuh)."""
NULL: Final = np.uint64(0)

_NAMES: Final = {np.dtype(np.uint8): "u8", np.dtype(np.float32): "f32", np.dtype(np.float16): "f16"}


def pyramid(
    kernels: Kernels,
    images: DeviceArray,
    size: int,
    *,
    scale: DeviceArray | None = None,
    shift: DeviceArray | None = None,
    dtype: DTypeLike = np.float32,
) -> DeviceArray:
    """Enqueue the bicubic resampling of a batch; does not wait.

    a = -3/4, half-pixel centres, the border repeated, no antialiasing, as
    `klieg.methods.cameras.enlarge_images`. Results are not cut off: they overshoot 0..255 at edges.

    Args:
        kernels: Where to compute.
        images: [B, S, S, C] uint8, or [B, C, S, S] float32 in 0..255.
        size: Side of the results in pixels, 1..16384; S leaves the pixels as they are.
        scale: [C] float32 factor of every channel, None for 1.
        shift: [C] float32 added to every channel afterwards, None for 0.
        dtype: float32 or float16.

    Returns:
        [B, C, size, size] in `dtype`: value * scale + shift.

    Raises:
        ImageError: the images have another type or shape.
        OptionError: the size, the type of the results, or scale or shift is impossible.
        DeviceError: the kernel cannot be launched.
    """
    batch, channels, side = _shape(images)
    result = np.dtype(dtype)
    if not 1 <= size <= LARGEST_SIDE:
        raise OptionError(f"size is {size}, expected pixels in 1..{LARGEST_SIDE}")
    if result not in (np.float32, np.float16):
        raise OptionError(f"dtype is {result}, expected float32 or float16")
    for name, array in (("scale", scale), ("shift", shift)):
        if array is not None and (array.shape != (channels,) or array.dtype != np.float32):
            raise OptionError(
                f"{name} is {array.dtype} {list(array.shape)}, expected float32 [{channels}]: "
                "one number per channel"
            )
    resampled = DeviceArray.empty(kernels.workspace, (batch, channels, size, size), result)
    block = strip(side, size)
    kernels.launch(
        f"klieg_pyramid_{_NAMES[images.dtype]}_{_NAMES[result]}",
        (batch * channels * -(-size // ROWS), -(-size // block.columns), 1),
        images,
        NULL if scale is None else scale,
        NULL if shift is None else shift,
        resampled,
        side,
        size,
        channels,
        block.columns,
        block.pitch,
        int(block.whole(size, resampled.pointer)),
        shared=block.shared,
    )
    return resampled


def _shape(images: DeviceArray) -> tuple[int, int, int]:
    """Return batch, channels and side."""
    shape = images.shape
    if len(shape) == 4 and images.dtype == np.uint8:
        batch, side, width, channels = shape
    elif len(shape) == 4 and images.dtype == np.float32:
        batch, channels, side, width = shape
    else:
        batch = channels = side = width = 0
    if side != width or min(shape, default=0) < 1 or not 1 <= side <= LARGEST_SIDE:
        raise ImageError(
            f"images are {images.dtype} {list(shape)}, expected uint8 [B, S, S, C] or float32 "
            f"[B, C, S, S] with S in 1..{LARGEST_SIDE}: fit them to a square first"
        )
    return batch, channels, side
