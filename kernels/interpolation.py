"""Bilinear enlargement between pixel grids whose centres sit at half-integers."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray


@functools.lru_cache(maxsize=256)
def bilinear_weights(cells: int, pixels: int) -> NDArray[np.float32]:
    """Return the weights of one axis: pixel = weights @ cells.

    Pixel p has its centre at (p + 0.5) * cells / pixels - 0.5 on the axis of cells, clamped at the
    first and last cell (what frameworks call half-pixel centres, or align_corners=False).

    Args:
        cells: Number of samples of the coarse grid, at least 1.
        pixels: Number of samples of the fine grid, at least 1.

    Returns:
        Read-only weights [pixels, cells] float32, at most two per row, each row summing to 1.
    """
    position = (np.arange(pixels, dtype=np.float64) + 0.5) * cells / pixels - 0.5
    position = position.clip(0, cells - 1)
    lower = np.floor(position).astype(np.intp)
    upper = np.minimum(lower + 1, cells - 1)
    share = position - lower
    weights = np.zeros((pixels, cells), dtype=np.float64)
    rows = np.arange(pixels)
    np.add.at(weights, (rows, lower), 1 - share)
    np.add.at(weights, (rows, upper), share)
    result = weights.astype(np.float32)
    result.flags.writeable = False  # cached: shared between callers
    return result


def enlarge(cells: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Enlarge one map [h, w] float32 to [height, width]; equals `enlarge_plain`.

    By OpenCV, not by matrix products: after one of those, threads of the linear algebra library
    spin for tens of milliseconds and take the cores from the engine's next pass.
    """
    enlarged = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, dtype=np.float32)


def enlarge_plain(maps: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Enlarge the last two axes bilinearly with half-pixel centres, as two matrix products.

    Args:
        maps: [..., h, w] float32.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        [..., height, width] float32.
    """
    rows = bilinear_weights(maps.shape[-2], height)
    columns = bilinear_weights(maps.shape[-1], width)
    return np.asarray(rows @ maps @ columns.T, dtype=np.float32)
