"""Confidence of a classifier in the part of an image that a map keeps, or removes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from klieg.errors import InputError
from klieg.evaluation.metrics.checks import check_images, check_shares
from klieg.maps.checks import check_maps


def masked(
    images: NDArray[np.float32], maps: NDArray[np.float32], *, fill: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return images that fade to a colour where the maps are low: I * m + fill * (1 - m).

    Filled with the mean colour this is I * m on normalised images. Pass 1 - maps for what the maps
    leave out.

    Args:
        images: [N, C, S, S].
        maps: [N, S, S] in 0..1.
        fill: [C, 1, 1] colour in the images' range.

    Returns:
        [N, C, S, S].

    Raises:
        InputError: shapes differ, or a map's value is not in 0..1.
    """
    check_images(images)
    check_maps(maps)
    if maps.shape != (len(images), *images.shape[2:]):
        raise InputError(
            f"the maps have shape {list(maps.shape)}, expected one of the size of each image, "
            f"{[len(images), *images.shape[2:]]}"
        )
    return np.asarray(fill + maps[:, None] * (images - fill), dtype=np.float32)


def rho(
    kept: ArrayLike, removed: ArrayLike, mass: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the confidence per share of the image that a map keeps, and that it leaves out.

    rho+ = P(I * m) / mean(m), higher is better; rho- = P(I * (1 - m)) / mean(1 - m), lower is
    better (CAMERAS). A map of ones has the classifier's own confidence as rho+.

    Args:
        kept: [N] in 0..1, probability of the class on I * m: see `masked`.
        removed: [N] in 0..1, probability of the class on I * (1 - m).
        mass: [N] in 0..1, mean of the map m.

    Returns:
        rho+ [N], NaN where the map is empty, and rho- [N], NaN where it is 1 everywhere.

    Raises:
        InputError: shapes differ, or a value is not in 0..1.
    """
    plus, minus, share = _shares(kept=kept, removed=removed, mass=mass)
    return _quotient(plus, share), _quotient(minus, 1 - share)


def average_drop(full: ArrayLike, kept: ArrayLike) -> NDArray[np.float64]:
    """Return by how many percent the confidence drops if only what a map keeps is seen.

    100 max(0, P(I) - P(I * m)) / P(I), lower is better (Chattopadhay et al. 2018, Grad-CAM++).

    Args:
        full: [N] in 0..1, probability of the class on the whole image.
        kept: [N] in 0..1, on I * m: see `masked`.

    Returns:
        [N] in 0..100, NaN where there is no confidence that could drop.

    Raises:
        InputError: shapes differ, or a value is not in 0..1.
    """
    before, after = _shares(full=full, kept=kept)
    return 100 * _quotient(np.maximum(0, before - after), before)


def average_increase(full: ArrayLike, kept: ArrayLike) -> NDArray[np.float64]:
    """Return 100 where confidence rises if only what a map keeps is seen, else 0.

    The mean is the percentage of such images, higher is better (Chattopadhay et al. 2018).

    Args:
        full: See `average_drop`.
        kept: See `average_drop`.

    Returns:
        [N].

    Raises:
        InputError: shapes differ, or a value is not in 0..1.
    """
    before, after = _shares(full=full, kept=kept)
    return np.where(after > before, 100.0, 0.0)


def _shares(**shares: ArrayLike) -> list[NDArray[np.float64]]:
    exact = {name: np.asarray(values, dtype=np.float64) for name, values in shares.items()}
    check_shares(**exact)
    return list(exact.values())


def _quotient(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """Return above / below, NaN where that is over 0."""
    return np.asarray(above / np.where(below > 0, below, np.nan))
