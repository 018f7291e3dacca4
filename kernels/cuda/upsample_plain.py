"""Enlargement of masks as two gathers or two matrix products: the tests' truth for `upsample`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from klieg.kernels.interpolation import enlarge_plain


def upsample_plain(
    masks: NDArray[Any],
    size: tuple[int, int],
    *,
    mode: Literal["nearest", "bilinear"],
    sigmoid: bool,
) -> NDArray[np.float32]:
    """Enlarge masks [N, h, w]; arguments and result as `upsample.upsample`."""
    cells = masks.astype(np.float32)
    if sigmoid:
        exact = cells.astype(np.float64)
        cells = (0.5 * (1 + np.tanh(exact / 2))).astype(np.float32)  # cannot overflow
    if mode == "bilinear":
        return enlarge_plain(cells, *size)
    rows, columns = (
        nearest_cells(have, wanted) for have, wanted in zip(cells.shape[1:], size, strict=True)
    )
    return np.ascontiguousarray(cells[:, rows[:, None], columns])


def nearest_cells(cells: int, pixels: int) -> NDArray[np.intp]:
    """Return the cell of each pixel [pixels] in torch's float32 steps."""
    scale = np.float32(cells) / np.float32(pixels)
    found = np.floor(np.arange(pixels, dtype=np.float32) * scale).astype(np.intp)
    return np.asarray(np.minimum(found, cells - 1), dtype=np.intp)
