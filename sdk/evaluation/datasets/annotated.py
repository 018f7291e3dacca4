"""Annotated photos: the one form that every data set is read into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

ProblemKind = Literal[
    "annotation without image",
    "image without annotation",
    "unreadable image",
    "unreadable annotation",
    "box beyond the picture",
    "box outside the picture",
    "mask of another size",
    "unknown category",
]


@dataclass(frozen=True)
class Problem:
    """Something in a data set that is not as it should be; none is passed over in silence."""

    kind: ProblemKind
    where: str
    """The file or photo."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Region:
    """All objects of one category on one photo."""

    category: str
    boxes: NDArray[np.float64]
    """[n, 4] xmin, ymin, xmax, ymax in pixels of the photo, the ends exclusive; n may be 0 if there
    is a mask. They may reach beyond the photo."""
    difficult: NDArray[np.bool_]
    """[n] True for an object that the data set marks as hard to recognise."""
    mask: NDArray[np.bool_] | None = None
    """[H, W] True on any of the objects; None if boxes are all that is known."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedPhoto:
    """One photo with its regions."""

    name: str
    """Unique in the data set."""
    photo: NDArray[Any]
    """[H, W, 3] RGB in 0..255"""
    regions: tuple[Region, ...]
    """One per category."""
    ignore: NDArray[np.bool_] | None = None
    """[H, W] True where a pixel counts neither as object nor as background."""
    problems: tuple[Problem, ...] = ()
    """Problems found while this photo was read."""


class Dataset(Protocol):
    """A list of annotated photos. Only the annotations are in memory, photos come one by one."""

    @property
    def problems(self) -> Sequence[Problem]:
        """Problems of the annotations, found before any photo is read."""

    def __len__(self) -> int:
        """Return the number of photos that have an image and an annotation."""

    def name(self, index: int) -> str:
        """Return the name of a photo without reading it."""

    def __getitem__(self, index: int) -> AnnotatedPhoto:
        """Read a photo.

        Raises:
            ImageError: the photo is unreadable.
        """


def checked(photo: AnnotatedPhoto) -> AnnotatedPhoto:
    """Compare regions with the size of their photo.

    Returns:
        The photo with what fits: boxes that lie wholly outside and masks of another size are left
        out, and regions of which nothing remains; each is listed among the problems. A box
        that only reaches beyond the photo is listed and stays.
    """
    size = photo.photo.shape[:2]
    problems = list(photo.problems)
    regions = []
    for region in photo.regions:
        mask = _of_size(region.mask, size, f"mask of {region.category}", photo.name, problems)
        inside = _inside(region, size, photo.name, problems)  # [n]
        if inside.any() or mask is not None:
            boxes, difficult = region.boxes[inside], region.difficult[inside]
            regions.append(replace(region, boxes=boxes, difficult=difficult, mask=mask))
    ignore = _of_size(photo.ignore, size, "mask of what to ignore", photo.name, problems)
    return replace(photo, regions=tuple(regions), ignore=ignore, problems=tuple(problems))


def _of_size(
    mask: NDArray[np.bool_] | None,
    size: tuple[int, ...],
    title: str,
    name: str,
    problems: list[Problem],
) -> NDArray[np.bool_] | None:
    if mask is None or mask.shape == size:
        return mask
    detail = f"{title} is {mask.shape[1]} x {mask.shape[0]}, the photo {size[1]} x {size[0]}"
    problems.append(Problem("mask of another size", name, detail))
    return None


def _inside(
    region: Region, size: tuple[int, ...], name: str, problems: list[Problem]
) -> NDArray[np.bool_]:
    height, width = size
    inside = np.ones(len(region.boxes), dtype=np.bool_)
    for number, (left, top, right, bottom) in enumerate(region.boxes.tolist()):
        box = f"{left:g}, {top:g}, {right:g}, {bottom:g}"
        detail = f"{region.category}: {box} in a photo of {width} x {height}"
        if min(right, width) <= max(left, 0) or min(bottom, height) <= max(top, 0):
            inside[number] = False
            problems.append(Problem("box outside the picture", name, detail))
        elif left < 0 or top < 0 or right > width or bottom > height:
            problems.append(Problem("box beyond the picture", name, detail))
    return inside
