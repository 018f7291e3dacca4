"""Masks of a coarse grid enlarged to the pixels of an image."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from klieg.errors import OptionError
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.strips import ROWS, strip
from klieg.kernels.device.array import DeviceArray

LARGEST_SIDE: Final = 2**14
"""Cells and pixels; pixel positions are then exact (resampling.cuh)."""
TAPS: Final = 12
"""Bytes of a column's taps: resampling.cuh."""

_NAMES: Final = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16"}


def upsample(
    kernels: Kernels,
    masks: DeviceArray,
    size: tuple[int, int],
    *,
    mode: Literal["nearest", "bilinear"],
    sigmoid: bool,
) -> DeviceArray:
    """Enqueue the enlargement of masks; does not wait.

    The sigmoid is taken of the cells, before the enlargement, as in `klieg.training.model.masker`:
    masks are blended, not their logits. "nearest" follows torch's float32 steps, as exported files
    do, so that it equals them at every size; "bilinear" has half-pixel centres. Neither leaves the
    range of the cells.

    Args:
        kernels: Where to compute.
        masks: [N, h, w] float32 or float16.
        size: Height and width of the results, each in 1..16384.
        mode: How a pixel follows from the cells.
        sigmoid: True if the cells are logits.

    Returns:
        [N, height, width] float32.

    Raises:
        OptionError: the masks have another type or shape, or size or mode is impossible.
        DeviceError: the kernel cannot be launched.
    """
    named = masks.dtype in _NAMES and len(masks.shape) == 3 and masks.shape[0] > 0
    if not named or not _usable(masks.shape[1:]):
        raise OptionError(
            f"masks are {masks.dtype} {list(masks.shape)}, expected float32 or float16 [N, h, w] "
            f"with sides in 1..{LARGEST_SIDE}"
        )
    if not _usable(size):
        raise OptionError(f"size is {size}, expected height and width in 1..{LARGEST_SIDE}")
    if mode not in ("nearest", "bilinear"):
        raise OptionError(f"mode is {mode!r}, expected 'nearest' or 'bilinear'")
    count, h, w = masks.shape
    height, width = size
    enlarged = DeviceArray.empty(kernels.device, (count, height, width), np.float32)
    block = strip(w, width, per_column=TAPS)
    kernels.launch(
        f"klieg_upsample_{mode}_{_NAMES[masks.dtype]}",
        (count * -(-height // ROWS), -(-width // block.columns), 1),
        masks,
        enlarged,
        h,
        w,
        height,
        width,
        block.columns,
        block.pitch,
        int(block.whole(width, enlarged.pointer)),
        int(sigmoid),
        shared=block.shared,
    )
    return enlarged


def _usable(sides: tuple[int, ...]) -> bool:
    return all(1 <= side <= LARGEST_SIDE for side in sides)
