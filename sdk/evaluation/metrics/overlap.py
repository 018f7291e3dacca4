"""Soft F1: how well do a map's values fill an object's box, and nothing else?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.evaluation.metrics.checks import (
    check_number,
    check_some_object,
    checked_boxes,
)
from klieg.maps.checks import check_maps

GUARD: Final = 1e-6
"""Keeps the quotients finite, as in the released code."""


def soft_f1(
    maps: NDArray[np.float32], objects: Sequence[NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the F1 score of each map with the object that it fits best, and its mean over objects.

    F1 and F1a of Zolna et al. 2020 on maps that are not cut at a threshold. With I the sum of
    the map inside a box and A the box's area,

        P = I / (sum of the map + 1e-6),  R = I / A,  F1 = 2 P R / (P + R + 1e-6).

    As in the authors' code A is the whole area, also of the part of a box that a crop cut off,
    and fractions of box coordinates are dropped.

    Args:
        maps: [N, H, W] in 0..1.
        objects: N arrays [n, 4] xmin, ymin, xmax, ymax in pixels, ends exclusive, n at least 1.
            They may reach beyond the map. One without area scores 0.

    Returns:
        Two arrays [N] in 0..1: the best object's, and the mean over objects.

    Raises:
        InputError: numbers or shapes differ, a value is not in 0..1, an image has no object, or
            a box ends before it begins.
    """
    check_maps(maps)
    check_number(len(maps), objects=objects)
    check_some_object(objects)
    best, mean = np.zeros(len(maps)), np.zeros(len(maps))
    for number, (one, boxes) in enumerate(zip(maps, objects, strict=True)):
        scores = _scores(one, checked_boxes(np.asarray(boxes)).astype(np.int64))
        best[number], mean[number] = scores.max(), scores.mean()
    return best, mean


def _scores(one: NDArray[np.float32], boxes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return [n] of a map [H, W] and boxes [n, 4]."""
    inside = np.array(
        [
            one[top:bottom, left:right].sum(dtype=np.float64)
            for left, top, right, bottom in boxes.clip(min=0)  # slices end at the border themselves
        ]
    )
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    precision = inside / (one.sum(dtype=np.float64) + GUARD)
    recall = inside / np.maximum(areas, 1)  # without area there is nothing inside
    return np.asarray(2 * precision * recall / (precision + recall + GUARD))
