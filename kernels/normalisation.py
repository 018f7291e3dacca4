"""From raw maps to maps in 0..1: the truth of `klieg.kernels.cuda.normalize`."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

ROUNDING: Final = 1e-3
"""How far out of 0..1 an enlarged mask may be for rounding, half precision included."""


def normalise(raw: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Turn raw maps into maps: relu, then min-max to 0..1.

    Args:
        raw: [B, H, W].

    Returns:
        maps [B, H, W] in 0..1, and degenerate [B]: True, with a map of zeros, where the range of
        relu(raw) is no more than the rounding of its own computation.
    """
    flattened = raw.reshape(len(raw), -1)
    lowest, highest = flattened.min(axis=1)[:, None, None], flattened.max(axis=1)[:, None, None]
    low = np.maximum(lowest, 0)
    span = np.maximum(highest, 0) - low
    # A sum over a thousand channels in float32 is exact to about 1e-6 of its largest term.
    flat = span <= 1e-6 * np.maximum(highest, -lowest)
    maps = np.maximum(raw, low)
    maps -= low
    maps /= np.where(flat, 1, span)
    maps[flat[:, 0, 0]] = 0
    return maps, flat[:, 0, 0]


def as_masks(raw: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Take raw maps that are in 0..1 already as maps.

    Args:
        raw: [B, H, W].

    Returns:
        maps [B, H, W], a copy, and degenerate [B]: True where the mask is flat.
    """
    flattened = raw.reshape(len(raw), -1)
    return raw.copy(), np.ptp(flattened, axis=1) <= 1e-6
