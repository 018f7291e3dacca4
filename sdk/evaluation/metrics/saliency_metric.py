"""The saliency metric: is what a map keeps small, and enough for the classifier?"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from klieg.errors import InputError
from klieg.evaluation.metrics.checks import (
    check_images,
    check_number,
    check_shares,
    checked_boxes,
)
from klieg.evaluation.metrics.localisation import Variant, boxes_of

SMALLEST_AREA: Final = 0.05
"""Smaller crops are not rewarded further."""
LEAST_PROBABILITY: Final = 1e-6
"""Of callers that average: one photo of a probability of 0 must not make the mean infinite."""


def saliency_metric(area: ArrayLike, probability: ArrayLike) -> NDArray[np.float64]:
    """Return the saliency metric of each image; lower is better.

    SM of Dabkowski and Gal 2017: ln max(area, 0.05) - ln p.

    Args:
        area: [N] in 0..1, the share of the image that the map's box covers: see `box_areas`.
        probability: [N] in 0..1, what the classifier gives the true class when it sees only that
            box, enlarged to its input: see `enlarged_crops`.

    Returns:
        [N]; infinity where the probability is 0.

    Raises:
        InputError: the shapes differ, or a value is not in 0..1.
    """
    areas, chances = np.asarray(area, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    check_shares(area=areas, probability=chances)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.maximum(areas, SMALLEST_AREA)) - np.log(chances))


def box_areas(boxes: NDArray[Any], size: int, *, variant: Variant = "paper") -> NDArray[np.float64]:
    """Return the share of the image that each box covers.

    Args:
        boxes: [N, 4] xmin, ymin, xmax, ymax in pixels, ends exclusive, inside the image.
        size: Height and width of the image in pixels.
        variant: "released" is the area of the shorter boxes that the code of Phang et al. 2020
            cuts out. `shortened` of `klieg.evaluation.metrics.localisation` makes them: give
            those to `enlarged_crops`.

    Returns:
        [N] in 0..1.

    Raises:
        InputError: the shape differs, or a box ends before it begins or lies outside the image.
        OptionError: there is no such variant.
    """
    chosen = boxes_of(boxes, variant)
    _check_inside(chosen, size)
    return np.asarray((chosen[:, 2:] - chosen[:, :2]).prod(axis=1) / size**2)


def enlarged_crops(
    images: NDArray[np.float32], boxes: NDArray[Any], *, fill: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cut a box out of each image and enlarge it to the whole image.

    As in the released code of Phang et al. 2020: bicubic, the box's proportions are not kept, and
    where the interpolation overshoots 0..255 it is not cut off.

    Args:
        images: [N, C, S, S] in 0..255.
        boxes: [N, 4] xmin, ymin, xmax, ymax in whole pixels, ends exclusive, inside the image.
        fill: [C, 1, 1] colour of the image that stands for a box without area: the mean colour, 0
            after normalisation.

    Returns:
        [N, C, S, S].

    Raises:
        InputError: numbers or shapes differ, or a box ends before it begins or lies outside the
            image.
    """
    check_images(images)
    check_number(len(images), boxes=boxes)
    size = images.shape[2]
    exact = checked_boxes(np.asarray(boxes))
    _check_inside(exact, size)
    crops = np.empty(images.shape, dtype=np.float32)
    for crop, image, (left, top, right, bottom) in zip(
        crops, images, exact.astype(np.int64), strict=True
    ):
        if right == left or bottom == top:
            crop[:] = fill
        else:
            for plane, channel in zip(crop, image, strict=True):
                part = np.ascontiguousarray(channel[top:bottom, left:right])
                cv2.resize(part, (size, size), dst=plane, interpolation=cv2.INTER_CUBIC)
    return crops


def _check_inside(boxes: NDArray[np.float64], size: int) -> None:
    if not ((boxes >= 0) & (boxes <= size)).all():
        raise InputError(
            f"boxes reach from {boxes.min():g} to {boxes.max():g}, expected 0..{size}: boxes of "
            "maps lie inside the image"
        )
