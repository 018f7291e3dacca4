"""Localisation error: does the box of a map lie on an object?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError

OVERLAP: Final = 0.5
"""The intersection over union that a hit exceeds."""


def localisation_error(boxes: NDArray[Any], objects: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Return for each image 0 if its box hits an object, else 1.

    LE of Zolna et al. 2020: 1 - max over the objects of 1[IoU > 0.5]; an IoU of one half is a
    miss. The mean over images is what papers report.

    Args:
        boxes: [B, 4] xmin, ymin, xmax, ymax, ends exclusive, as `Explanation.boxes` returns them:
            inside the image. A box without area hits nothing.
        objects: B arrays [n, 4] on the same grid, n at least 1. As in the paper, where a crop cut
            through objects, they may reach beyond the image: that part cannot be hit, but counts
            in the union.

    Returns:
        [B].

    Raises:
        InputError: numbers or shapes differ, an image has no object, or a box ends before it
            begins.
    """
    if len(boxes) != len(objects):
        raise InputError(
            f"got boxes of {len(boxes)} images and objects of {len(objects)}, expected the same "
            "number"
        )
    for number, marked in enumerate(objects):
        if len(marked) == 0:
            raise InputError(
                f"image {number} has no object, expected at least one: leave such images out"
            )
    overlaps = [
        intersection_over_union(box, marked).max()
        for box, marked in zip(boxes, objects, strict=True)
    ]
    return np.where(np.array(overlaps) > OVERLAP, 0.0, 1.0)


def intersection_over_union(box: NDArray[Any], objects: NDArray[Any]) -> NDArray[np.float64]:
    """Return the area that a box shares with each object, relative to the area of both together.

    Args:
        box: [4] xmin, ymin, xmax, ymax, ends exclusive.
        objects: [n, 4].

    Returns:
        [n] in 0..1; 0 where both have no area.

    Raises:
        InputError: a shape differs, or a box ends before it begins.
    """
    one, many = _checked(np.asarray(box)[None])[0], _checked(np.asarray(objects))
    sides = np.minimum(one[2:], many[:, 2:]) - np.maximum(one[:2], many[:, :2])  # [n, 2]
    shared = sides.clip(min=0).prod(axis=1)
    union = (one[2:] - one[:2]).prod() + (many[:, 2:] - many[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / np.where(union > 0, union, 1))


def _checked(boxes: NDArray[Any]) -> NDArray[np.float64]:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes have shape {list(boxes.shape)}, expected [n, 4]")
    exact = boxes.astype(np.float64)
    wrong = ~(exact[:, 2:] >= exact[:, :2]).all(axis=1)  # NaN is wrong, too
    if wrong.any():
        raise InputError(
            f"got the box {exact[wrong.argmax()].tolist()}, expected xmin <= xmax and "
            "ymin <= ymax: the order is xmin, ymin, xmax, ymax"
        )
    return exact
