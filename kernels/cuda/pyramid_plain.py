"""Bicubic resampling as its definition, in float64: the tests' truth for `pyramid`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

A = -0.75


def pyramid_plain(
    images: NDArray[np.uint8] | NDArray[np.float32],
    size: int,
    *,
    scale: NDArray[np.float32] | None = None,
    shift: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Resample and normalise; arguments as `pyramid.pyramid`, result [B, C, size, size] float64."""
    planes = images.transpose(0, 3, 1, 2) if images.dtype == np.uint8 else images
    weights = bicubic_weights(planes.shape[-1], size)
    resampled = weights @ planes.astype(np.float64) @ weights.T
    factor = 1.0 if scale is None else scale.astype(np.float64)[:, None, None]
    offset = 0.0 if shift is None else shift.astype(np.float64)[:, None, None]
    return np.asarray(resampled * factor + offset, dtype=np.float64)


def bicubic_weights(cells: int, pixels: int) -> NDArray[np.float64]:
    """Return the weights [pixels, cells] of one axis: pixel = weights @ cells.

    A cell at distance d weighs (A + 2) d^3 - (A + 3) d^2 + 1 up to 1, and
    A d^3 - 5 A d^2 + 8 A d - 4 A up to 2; cells outside are those at the border.
    """
    position = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    weights = np.zeros((pixels, cells))
    for tap in range(-1, 3):
        cell = np.floor(position).astype(np.intp) + tap
        d = np.abs(position - cell)
        near = ((A + 2) * d - (A + 3)) * d**2 + 1
        far = ((A * d - 5 * A) * d + 8 * A) * d - 4 * A
        weight = np.where(d <= 1, near, np.where(d < 2, far, 0))
        np.add.at(weights, (np.arange(pixels), cell.clip(0, cells - 1)), weight)
    return weights
