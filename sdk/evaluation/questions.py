"""Questions that a data set asks of a saliency map: a photo, a category, and where it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem, Region
from klieg.images.fitting import Placement

Targets = Literal["labelled", "predicted"]
"""Explain each category that people marked, or the predicted class against all objects."""

ANY = "any"
"""The category of a question about all objects."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One category on one photo."""

    category: str
    classes: tuple[int, ...]
    """The classifier's classes that mean this category."""
    boxes: NDArray[np.float64]
    """[n, 4] in pixels of the photo."""
    objects: NDArray[np.bool_]
    """[H, W] True on any of the objects; boxes are filled where there is no mask."""
    has_mask: bool
    others: bool
    """True if objects of another category are on the photo."""


def ask(
    photo: AnnotatedPhoto, classes_of: Callable[[str], tuple[int, ...] | None], targets: Targets
) -> tuple[list[Question], list[Problem]]:
    """Return the questions about a photo, and its categories that the classifier does not know.

    Objects that a data set marks as difficult do not make a category present, but once it is
    they are part of it, as in the pointing game of VOC.

    Args:
        photo: A photo with its regions.
        classes_of: Returns the classes of a category, None for one without counterpart.
        targets: "predicted" asks one question about all objects together.
    """
    known = {region.category: classes_of(region.category) for region in photo.regions}
    if targets == "predicted":
        classes = tuple(one for found in known.values() for one in found or ())
        return ([_question(ANY, classes, photo.regions, photo)] if photo.regions else []), []
    questions, problems = [], []
    for region in photo.regions:
        found = known[region.category]
        if found is None:
            problems.append(Problem("unknown category", photo.name, region.category))
        elif region.mask is not None or not region.difficult.all():
            questions.append(_question(region.category, found, [region], photo))
    return questions, problems


def _question(
    category: str, classes: tuple[int, ...], regions: Sequence[Region], photo: AnnotatedPhoto
) -> Question:
    size = photo.photo.shape[:2]
    objects = np.zeros(size, dtype=np.bool_)
    for region in regions:
        objects |= _filled(region.boxes, size) if region.mask is None else region.mask
    return Question(
        category=category,
        classes=classes,
        boxes=np.concatenate([region.boxes for region in regions]),
        objects=objects,
        has_mask=all(region.mask is not None for region in regions),
        others=len(photo.regions) > len(regions),
    )


def _filled(boxes: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return [H, W], True where a box covers the centre of a pixel, or has its own centre in it."""
    inside = np.zeros(size, dtype=np.bool_)
    for left, top, right, bottom in boxes:
        inside |= np.outer(_between(top, bottom, size[0]), _between(left, right, size[1]))
    return inside


def _between(start: float, stop: float, size: int) -> NDArray[np.bool_]:
    centres = np.arange(size) + 0.5
    middle = int((max(start, 0) + min(stop, size)) / 2)
    return np.asarray((start <= centres) & (centres < stop) | (np.arange(size) == middle))


def boxes_on_grid(boxes: NDArray[np.float64], placement: Placement) -> NDArray[np.float64]:
    """Return boxes [n, 4] of the photo's pixels on the model's input grid."""
    seen, target = placement.seen, placement.target
    scale = np.array([target.width / seen.width, target.height / seen.height] * 2)
    start, offset = np.array([seen.left, seen.top] * 2), np.array([target.left, target.top] * 2)
    return np.asarray((boxes - start) * scale + offset)


def mask_on_grid(mask: NDArray[Any], placement: Placement, *, outside: bool) -> NDArray[np.bool_]:
    """Return a mask [H, W] of the photo's pixels on the model's input grid [S, S].

    Args:
        mask: True or False per pixel of the photo.
        placement: How the photo lies on the grid.
        outside: The value where the grid shows no photo.
    """
    grid = np.full((placement.size, placement.size), outside, dtype=np.bool_)
    part = mask[placement.seen.slices].astype(np.uint8)
    size = (placement.target.width, placement.target.height)
    nearest = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST_EXACT)
    grid[placement.target.slices] = nearest > 0
    return grid
