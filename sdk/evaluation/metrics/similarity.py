"""Similarity of two maps of the same photo, for sanity checks.

The four measures of Adebayo et al. 2018 (Sanity checks for saliency maps). Each returns NaN where a
map is constant, so that means of all four are over the same pairs.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError
from klieg.evaluation.metrics.checks import check_same_shape
from klieg.maps.checks import check_maps

WINDOW: Final = 5
"""Side in pixels of the windows that SSIM compares."""
CELL: Final = 16
"""Side in pixels of a HOG cell; three of them along each side make a block."""


def spearman(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rank correlation of each pair of maps; equal values share their mean rank.

    Args:
        a: [N, H, W] of any range.
        b: [N, H, W].

    Returns:
        [N] in -1..1, NaN where a map is constant.

    Raises:
        InputError: shapes differ, or a value is not finite.
    """
    from scipy.stats import rankdata

    _check(a, b, smallest=1)
    pixels = a.shape[1] * a.shape[2]
    return _correlations(*(rankdata(maps.reshape(len(maps), pixels), axis=1) for maps in (a, b)))


def spearman_absolute(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rank correlation of |m - 0.5|: of how decided maps are, whichever way.

    Args:
        a: [N, H, W] in 0..1.
        b: [N, H, W].

    Returns:
        [N] in -1..1, NaN where |m - 0.5| of a map is constant.

    Raises:
        InputError: shapes differ, or a value is not in 0..1.
    """
    check_maps(a)
    check_maps(b)
    return spearman(np.abs(a - 0.5), np.abs(b - 0.5))


def ssim(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the structural similarity of each pair of maps (Wang et al. 2004), windows of 5 x 5.

    Args:
        a: [N, H, W] in 0..1, of at least 5 x 5 pixels.
        b: [N, H, W].

    Returns:
        [N] in -1..1, NaN where a map is constant.

    Raises:
        InputError: shapes differ, or a value is not in 0..1.
    """
    from skimage.metrics import structural_similarity

    check_maps(a)
    check_maps(b)
    _check(a, b, smallest=WINDOW)
    # In double precision: variances are differences of nearly equal numbers.
    pairs = zip(a.astype(np.float64), b.astype(np.float64), strict=True)
    values = np.array(
        [structural_similarity(*pair, win_size=WINDOW, data_range=1.0) for pair in pairs],  # type: ignore[no-untyped-call]
        dtype=np.float64,
    )
    return np.where(_constant(a) | _constant(b), np.nan, values)


def hog_similarity(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the correlation of the maps' histograms of oriented gradients.

    Pearson's, of HOG features (Dalal and Triggs 2005) with cells of 16 pixels, 9 orientations and
    blocks of 3 x 3 cells.

    Args:
        a: [N, H, W] of any range, of at least 48 x 48 pixels.
        b: [N, H, W].

    Returns:
        [N] in -1..1, NaN where a map, or all that its histograms see of it, is constant.

    Raises:
        InputError: shapes differ, or a value is not finite.
    """
    from skimage.feature import hog

    _check(a, b, smallest=3 * CELL)
    one, other = (
        np.array([hog(m, pixels_per_cell=(CELL, CELL), cells_per_block=(3, 3)) for m in maps])
        for maps in (a.astype(np.float64), b.astype(np.float64))
    )
    return _correlations(one, other)


def _correlations(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Pearson's correlation [N] of rows [N, K], NaN where a row is constant."""
    if not len(one):
        return np.zeros(0)
    first, second = (rows - rows.mean(axis=1, keepdims=True) for rows in (one, other))
    shared = (first * second).sum(axis=1)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    # Of a constant row rounding may leave a spread above 0.
    undefined = _constant(one) | _constant(other) | (spread == 0)
    return np.asarray(shared / np.where(undefined, np.nan, spread)).clip(-1, 1)


def _constant(maps: NDArray[Any]) -> NDArray[np.bool_]:
    """Return [N] True where all values of a map [N, ...] are equal."""
    axes = tuple(range(1, maps.ndim))
    return np.asarray(maps.min(axis=axes) == maps.max(axis=axes))


def _check(a: NDArray[Any], b: NDArray[Any], *, smallest: int) -> None:
    check_maps(a, bounded=False)
    check_maps(b, bounded=False)
    check_same_shape(a, b)
    if min(a.shape[1:]) < smallest:
        raise InputError(
            f"the maps are {a.shape[2]} x {a.shape[1]} pixels, expected at least {smallest} on "
            "each side: enlarge them"
        )
