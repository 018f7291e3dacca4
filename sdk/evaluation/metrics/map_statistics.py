"""Statistics of maps that need neither objects nor a classifier."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from klieg.errors import OptionError
from klieg.evaluation.metrics.checks import check_same_shape
from klieg.evaluation.metrics.localisation import Variant
from klieg.maps.checks import check_maps


def compactness(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the smallest share of the pixels that holds half of each map's mass.

    A definition of klieg's own. Small is compact: a single pixel has 1 / (H W), a constant map 1/2.

    Args:
        maps: [N, H, W] in 0..1.

    Returns:
        [N] in 0..1, NaN for an empty map.

    Raises:
        InputError: the maps have another shape or range.
    """
    check_maps(maps)
    pixels = maps.shape[1] * maps.shape[2]
    ascending = np.sort(maps.reshape(len(maps), pixels), axis=1)
    mass = ascending[:, ::-1].cumsum(axis=1, dtype=np.float64)  # of the k + 1 highest pixels
    total = mass[:, -1:]
    needed = (mass < total / 2).sum(axis=1) + 1
    return np.where(total[:, 0] > 0, needed / pixels, np.nan)


def entropy(maps: NDArray[np.float32], *, variant: Variant = "paper") -> NDArray[np.float64]:
    """Return the mean entropy of a pixel of each map, in bits: 0 if all are 0 or 1.

    Args:
        maps: [N, H, W] in 0..1.
        variant: "paper" is the binary entropy -m log2 m - (1 - m) log2(1 - m). "released" is what
            the code of Zolna et al. 2020 prints, -m log2 m: only half of it.

    Returns:
        [N] in 0..1.

    Raises:
        InputError: the maps have another shape or range.
        OptionError: there is no such variant.
    """
    from scipy.special import entr

    check_maps(maps)
    exact = maps.astype(np.float64)
    match variant:
        case "paper":
            nats = entr(exact) + entr(1 - exact)
        case "released":
            nats = entr(exact)
        case _:
            raise OptionError(
                f"variant is {variant!r}, expected one of {', '.join(get_args(Variant))}"
            )
    return np.asarray(nats.mean(axis=(1, 2)) / np.log(2))


def map_difference(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far maps are apart, relative to their own size.

    ||a - b||^2 / ((||a||^2 + ||b||^2) / 2), as CAMERAS (table 5.4) compares maps of different
    numbers of scales.

    Args:
        a: [N, H, W] of any range.
        b: [N, H, W].

    Returns:
        [N] in 0..4, for maps without negative values in 0..2; 0 if both are zero everywhere.

    Raises:
        InputError: shapes differ, or a value is not finite.
    """
    check_maps(a, bounded=False)
    check_maps(b, bounded=False)
    check_same_shape(a, b)
    one, other = a.astype(np.float64), b.astype(np.float64)
    apart = ((one - other) ** 2).sum(axis=(1, 2))
    size = ((one**2).sum(axis=(1, 2)) + (other**2).sum(axis=(1, 2))) / 2
    return np.asarray(apart / np.where(size > 0, size, 1))
