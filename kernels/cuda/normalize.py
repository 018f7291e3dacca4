"""Raw maps made maps in 0..1, or said to be none."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np

from klieg.errors import OptionError
from klieg.kernels.cuda.kernels import THREADS, Kernels
from klieg.kernels.device.array import DeviceArray

PIXELS_PER_PART: Final = 1024
"""Pixels of a map that a block takes, unless there are more than THREADS blocks of them."""


class State(IntEnum):
    """What became of a map; normalize.cu has the same numbers."""

    FINE = 0
    FLAT = 1
    """Degenerate: a map of zeros, but a flat mask stays what it is."""
    NOT_A_NUMBER = 2
    """A value was NaN: so is all of the map."""
    OUT_OF_RANGE = 3
    """Of masks: a value was more than rounding outside 0..1. All of the map is NaN."""


def normalize(
    kernels: Kernels, raw: DeviceArray, *, masks: bool
) -> tuple[DeviceArray, DeviceArray]:
    """Enqueue what `klieg.kernels.normalisation.normalise` or `as_masks` does; does not wait.

    Args:
        kernels: Where to compute.
        raw: [N, H, W] float32.
        masks: True for masks, in 0..1 up to rounding: they are only cut off there.

    Returns:
        maps [N, H, W] float32 in 0..1, and states [N] int32, each a `State`. Of states other than
        FINE and FLAT there is no map; whoever reads the states must raise.

    Raises:
        OptionError: `raw` has another type or shape.
        DeviceError: a kernel cannot be launched.
    """
    if raw.dtype != np.float32 or len(raw.shape) != 3 or min(raw.shape) < 1:
        raise OptionError(f"raw is {raw.dtype} {list(raw.shape)}, expected float32 [N, H, W]")
    count, height, width = raw.shape
    pixels = height * width
    parts = min(-(-pixels // PIXELS_PER_PART), THREADS)
    extremes = DeviceArray.empty(kernels.workspace, (count, parts, 2), np.float32)
    maps = DeviceArray.empty(kernels.workspace, raw.shape, np.float32)
    states = DeviceArray.empty(kernels.workspace, (count,), np.int32)
    whole = pixels % 4 == 0 and raw.pointer % 16 == 0 and maps.pointer % 16 == 0
    grid = (count * parts, 1, 1)
    shared = THREADS * 2 * 4
    kernels.launch(
        "klieg_normalize_extremes",
        grid,
        raw,
        extremes,
        pixels,
        parts,
        int(whole),
        shared=shared,
    )
    kernels.launch(
        "klieg_normalize_masks" if masks else "klieg_normalize_maps",
        grid,
        raw,
        extremes,
        maps,
        states,
        pixels,
        parts,
        int(whole),
        shared=shared,
    )
    return maps, states
