"""The pointing game: does the highest value of a map lie on an object?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.checks import check_number

SMALL: Final = 0.25
"""Objects that cover less than this share of a photo are difficult to point at."""


def pointing_hits(
    maps: Sequence[NDArray[Any]], objects: Sequence[NDArray[np.bool_]], *, radius: float = 15.0
) -> NDArray[np.float64]:
    """Return for each pair of photo and class 1 if its map points at an object, else 0.

    Zhang et al. 2016, with the tolerance as in Fong et al. 2019: a hit if an object has a pixel
    whose squared distance from the map's maximum is less than radius**2. Of equal maxima the
    first, row by row, counts. Papers report the mean over classes of each class's mean.

    Args:
        maps: N arrays [H, W] on the photo's own pixels, of any range.
        objects: N arrays [H, W] of the same size, True on any object of the class: photos may
            differ in size. Where only boxes are known, True in their union.
        radius: In pixels, above 0. 1 or less asks for the very pixel.

    Returns:
        [N].

    Raises:
        InputError: numbers, shapes or types differ, a map holds NaN, or no pixel of a photo
            is an object's.
        OptionError: the radius is not above 0.
    """
    if not 0 < radius < np.inf:
        raise OptionError(f"radius is {radius!r}, expected a number of pixels above 0")
    check_number(len(maps), objects=objects)
    _check_objects(objects)
    pairs = enumerate(zip(maps, objects, strict=True))
    return np.array([_hit(one, marked, radius, number) for number, (one, marked) in pairs], float)


def difficult_pairs(
    objects: Sequence[NDArray[np.bool_]], others: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which pairs of photo and class make up the difficult subset of the pointing game.

    Zhang et al. 2016: the objects of the class cover less than a quarter of the photo, and
    another class is present too.

    Args:
        objects: See `pointing_hits`.
        others: [N] True where the photo has objects of another class.

    Returns:
        [N].

    Raises:
        InputError: numbers, shapes or types differ, or no pixel of a photo is an object's.
    """
    check_number(len(objects), others=others)
    _check_objects(objects)
    small = np.array([marked.mean() < SMALL for marked in objects], dtype=np.bool_)
    return small & others


def _hit(one: NDArray[Any], marked: NDArray[np.bool_], radius: float, number: int) -> bool:
    if one.shape != marked.shape:
        raise InputError(
            f"map {number} has shape {list(one.shape)} and its objects {list(marked.shape)}, "
            "expected the same: use `Explanation.on_image`"
        )
    row, column = divmod(int(one.argmax()), one.shape[1])  # NaN counts as a maximum
    if np.isnan(one[row, column]):
        raise InputError(f"map {number} holds NaN, expected numbers")
    reach = int(np.ceil(radius))
    top, left = max(0, row - reach), max(0, column - reach)
    rows, columns = np.nonzero(marked[top : row + reach + 1, left : column + reach + 1])
    distances = (rows + top - row) ** 2 + (columns + left - column) ** 2
    return bool((distances < radius**2).any())


def _check_objects(objects: Sequence[NDArray[np.bool_]]) -> None:
    for number, marked in enumerate(objects):
        if marked.dtype != np.bool_ or marked.ndim != 2:
            raise InputError(
                f"objects {number} are {marked.dtype} of shape {list(marked.shape)}, expected "
                "bool [H, W]"
            )
        if not marked.any():
            raise InputError(
                f"no pixel of photo {number} is an object's, expected at least one: leave such "
                "photos out"
            )
