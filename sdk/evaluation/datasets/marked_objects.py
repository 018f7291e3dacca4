"""One marked object, and how the objects of a photo become regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError
from klieg.evaluation.datasets.annotated import Region

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in pixels, the ends exclusive."""


class MarkedObject(NamedTuple):
    """One object, as it is known without its mask."""

    category: str
    box: Box | None = None
    difficult: bool = False


def regions_of(
    objects: Sequence[MarkedObject], masks: Sequence[NDArray[np.bool_] | None]
) -> tuple[Region, ...]:
    """Gather objects by category, in the order in which categories first appear.

    Args:
        objects: The objects of one photo.
        masks: One [H, W] per object, all of one size; None where it is not known. A region has a
            mask only if the masks of all its objects are known and not empty together: pixels of
            a missing one would pass for background.
    """
    regions = []
    for category in dict.fromkeys(one.category for one in objects):
        chosen = [number for number, one in enumerate(objects) if one.category == category]
        boxed = [objects[number] for number in chosen if objects[number].box is not None]
        known = [mask for number in chosen if (mask := masks[number]) is not None]
        union = np.logical_or.reduce(known) if len(known) == len(chosen) else None
        regions.append(
            Region(
                category=category,
                boxes=np.array([one.box for one in boxed], dtype=np.float64).reshape(-1, 4),
                difficult=np.array([one.difficult for one in boxed], dtype=np.bool_),
                mask=union if union is not None and union.any() else None,
            )
        )
    return tuple(regions)


def uncounted(
    ignored: Sequence[NDArray[np.bool_]], masks: Sequence[NDArray[np.bool_] | None]
) -> NDArray[np.bool_] | None:
    """Return [H, W] where any of `ignored` is True but no object lies; None if nothing is ignored.

    Args:
        ignored: [H, W] each.
        masks: One [H, W] per object; None where it is not known.
    """
    if not ignored:
        return None
    region: NDArray[np.bool_] = np.logical_or.reduce(ignored)
    for mask in masks:
        if mask is not None:
            region = region & ~mask
    return region


def with_box(
    one: MarkedObject, mask: NDArray[np.bool_] | None, size: tuple[int, ...]
) -> MarkedObject:
    """Return the object with the tight box round all pixels of its mask, if it has no box yet.

    Args:
        one: The object.
        mask: [H, W] or None. One of another size than the photo tells no box.
        size: H, W of the photo.
    """
    if one.box is not None or mask is None or mask.shape != size or not mask.any():
        return one
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return one._replace(box=as_box(*box))


def as_box(xmin: Any, ymin: Any, xmax: Any, ymax: Any) -> Box:
    """Return four numbers, or texts of numbers, as a box.

    Raises:
        InputError: one is no finite number, or the box ends before it begins.
    """
    sides = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
    left, top, right, bottom = (as_number(name, value) for name, value in sides.items())
    if right < left or bottom < top:
        raise InputError(
            f"got the box {left:g}, {top:g}, {right:g}, {bottom:g}, expected xmin <= xmax and "
            "ymin <= ymax"
        )
    return left, top, right, bottom


def as_number(name: str, value: Any) -> float:
    """Return a number, or the text of one.

    Raises:
        InputError: it is no finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name} is {value!r}, expected a finite number")
    return number
