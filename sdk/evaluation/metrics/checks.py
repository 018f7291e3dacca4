"""Checks of the images, objects and shares that metrics are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError


def check_same_shape(one: NDArray[Any], other: NDArray[Any]) -> None:
    """Raise InputError unless two batches of maps go together."""
    if one.shape != other.shape:
        raise InputError(
            f"the maps have shapes {list(one.shape)} and {list(other.shape)}, expected the same: "
            "bring both to one grid"
        )


def check_images(images: NDArray[Any]) -> None:
    """Raise InputError unless images are [N, C, S, S]."""
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise InputError(
            f"the images have shape {list(images.shape)}, expected [N, C, S, S]: pass a single one "
            "as image[None]"
        )


def check_number(expected: int, **lists: Sequence[Any] | NDArray[Any]) -> None:
    """Raise InputError unless there is one entry per image in every list."""
    for name, entries in lists.items():
        if len(entries) != expected:
            raise InputError(
                f"got {name} of {len(entries)} images, expected the same number as of the others, "
                f"{expected}"
            )


def check_shares(**shares: NDArray[Any]) -> None:
    """Raise InputError unless all values lie in 0..1 and all arrays have the same shape."""
    shapes = {name: list(values.shape) for name, values in shares.items()}
    if len({values.shape for values in shares.values()}) > 1:
        raise InputError(f"got the shapes {shapes}, expected one of each per image")
    for name, values in shares.items():
        if not ((values >= 0) & (values <= 1)).all():  # also refuses NaN
            raise InputError(f"{name} has values outside 0..1: shares, not pixels or percent")


def checked_boxes(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Return boxes [n, 4], n may be 0, in double precision.

    Raises:
        InputError: the shape differs, or a box ends before it begins.
    """
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


def check_some_object(objects: Sequence[NDArray[Any]]) -> None:
    """Raise InputError if an image has no object box."""
    for number, marked in enumerate(objects):
        if len(marked) == 0:
            raise InputError(
                f"image {number} has no object, expected at least one: leave such images out"
            )
