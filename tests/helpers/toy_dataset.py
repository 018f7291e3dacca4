"""A data set in memory, for evaluations that take no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from klieg.errors import ImageDecodeError
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem, Region, checked


@dataclass
class ToyDataset:
    """Photos of 20 x 30 to 40 x 50 pixels, each with one or two regions."""

    photos: Sequence[AnnotatedPhoto]
    broken: frozenset[int] = frozenset()
    problems: list[Problem] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.photos)

    def name(self, index: int) -> str:
        return self.photos[index].name

    def __getitem__(self, index: int) -> AnnotatedPhoto:
        if index in self.broken:
            raise ImageDecodeError(f"{self.name(index)} is cut short")
        return checked(self.photos[index])


def toy_dataset(
    count: int = 7,
    *,
    categories: Sequence[str] = ("ant", "bee"),
    masks: bool = True,
    broken: Sequence[int] = (),
    seed: int = 0,
) -> ToyDataset:
    """Return photos with a region of the first category, and on every other one of a second."""
    rng = np.random.default_rng(seed)
    photos = []
    for number in range(count):
        height, width = rng.integers(20, 40), rng.integers(30, 50)
        regions = []
        for category in categories[: 1 + number % 2]:
            left, top = rng.integers(0, width - 9), rng.integers(0, height - 9)
            right, bottom = left + rng.integers(4, 9), top + rng.integers(4, 9)
            mask = np.zeros((height, width), dtype=np.bool_)
            mask[top:bottom, left:right] = True
            boxes = np.array([[left, top, right, bottom]], dtype=np.float64)
            regions.append(
                Region(
                    category=category,
                    boxes=boxes,
                    difficult=np.zeros(1, np.bool_),
                    mask=mask if masks else None,
                )
            )
        photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        photos.append(
            AnnotatedPhoto(name=f"photo-{number}.png", photo=photo, regions=tuple(regions))
        )
    return ToyDataset(photos, frozenset(broken))
