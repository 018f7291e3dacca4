"""Localisation error and official metric: does the box of a map lie on an object?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.checks import check_number, check_some_object, checked_boxes

OVERLAP: Final = 0.5
"""The intersection over union that a hit exceeds."""

Variant = Literal["paper", "released"]
"""Boxes as defined, or as the code that came with Phang et al. 2020 cuts them."""


def localisation_error(
    boxes: NDArray[Any], objects: Sequence[NDArray[Any]], *, variant: Variant = "paper"
) -> NDArray[np.float64]:
    """Return for each image 0 if its box hits an object, else 1.

    LE of Zolna et al. 2020: 1 - max over the objects of 1[IoU > 0.5]; an IoU of one half is a
    miss. The mean over images is what papers report.

    Args:
        boxes: [N, 4] xmin, ymin, xmax, ymax, ends exclusive, as `Explanation.boxes` returns them:
            inside the image. A box without area hits nothing.
        objects: N arrays [n, 4] on the same grid, n at least 1. As in the paper, where a crop cut
            through objects, they may reach beyond the image: that part cannot be hit, but counts
            in the union.
        variant: "released" is for comparison with figures of Phang et al. 2020, whose code takes
            the last salient row and column for exclusive ends: see `shortened`.

    Returns:
        [N].

    Raises:
        InputError: numbers or shapes differ, an image has no object, or a box ends before it
            begins.
        OptionError: there is no such variant.
    """
    check_number(len(boxes), objects=objects)
    check_some_object(objects)
    chosen = boxes_of(boxes, variant)
    overlaps = [
        intersection_over_union(box, marked).max()
        for box, marked in zip(chosen, objects, strict=True)
    ]
    return np.where(np.array(overlaps) > OVERLAP, 0.0, 1.0)


def official_metric(
    boxes: NDArray[Any],
    objects: Sequence[NDArray[Any]],
    correct: NDArray[np.bool_],
    *,
    variant: Variant = "paper",
) -> NDArray[np.float64]:
    """Return for each image 0 if its box hits an object and its class is right, else 1.

    OM of Zolna et al. 2020, the error of ILSVRC's localisation task with one guess:
    1 - max over the objects of 1[IoU > 0.5] * 1[the predicted class is right].

    Args:
        boxes: See `localisation_error`.
        objects: See `localisation_error`.
        correct: [N] True where the classifier's first guess is right. A masker's own, jointly
            trained classifier judges in the papers.
        variant: See `localisation_error`.

    Returns:
        [N].

    Raises:
        InputError: as `localisation_error`, or `correct` has another shape or type.
        OptionError: there is no such variant.
    """
    if correct.dtype != np.bool_ or correct.shape != (len(boxes),):
        raise InputError(
            f"correct is {correct.dtype} of shape {list(correct.shape)}, expected bool "
            f"[{len(boxes)}], one per image"
        )
    return np.where(correct, localisation_error(boxes, objects, variant=variant), 1.0)


def intersection_over_union(boxes: NDArray[Any], objects: NDArray[Any]) -> NDArray[np.float64]:
    """Return the area that a box shares with each object, relative to the area of both together.

    Args:
        boxes: [4] or [k, 4] xmin, ymin, xmax, ymax, ends exclusive.
        objects: [n, 4].

    Returns:
        [n] or [k, n] in 0..1; 0 where both have no area.

    Raises:
        InputError: a shape differs, or a box ends before it begins.
    """
    boxes = np.asarray(boxes)
    one = checked_boxes(np.atleast_2d(boxes))[:, None]  # [k, 1, 4]
    many = checked_boxes(np.asarray(objects))
    sides = np.minimum(one[..., 2:], many[:, 2:]) - np.maximum(one[..., :2], many[:, :2])
    shared = sides.clip(min=0).prod(axis=-1)  # [k, n]
    union = _areas(one) + _areas(many) - shared
    overlaps = shared / np.where(union > 0, union, 1)
    return np.asarray(overlaps[0] if boxes.ndim == 1 else overlaps)


def boxes_of(boxes: NDArray[Any], variant: Variant) -> NDArray[np.float64]:
    """Return boxes [N, 4] as a variant has them, in double precision.

    Raises:
        InputError: the shape differs, or a box ends before it begins.
        OptionError: there is no such variant.
    """
    exact = checked_boxes(np.asarray(boxes))
    match variant:
        case "paper":
            return exact
        case "released":
            return shortened(exact)
        case _:
            raise OptionError(
                f"variant is {variant!r}, expected one of {', '.join(get_args(Variant))}"
            )


def shortened(boxes: NDArray[Any]) -> NDArray[Any]:
    """Return boxes [..., 4] without their last row and column.

    The code released with Phang et al. 2020 finds the last salient row and column and uses them
    as exclusive ends, so that its boxes miss one pixel on the right and at the bottom. A box one
    pixel wide or high has no area left.
    """
    return np.concatenate([boxes[..., :2], np.maximum(boxes[..., :2], boxes[..., 2:] - 1)], axis=-1)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [...] of boxes [..., 4]."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).prod(axis=-1))
