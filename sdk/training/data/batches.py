"""Batches of augmented photos. Every draw follows from the seed and the step, never from the past.

So a run that starts again in the middle sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from klieg.errors import DataError, ImageError
from klieg.images.formats import read_image
from klieg.training.data.photos import Photo
from klieg.training.settings.options import DataOptions, OptimiserOptions

Item = tuple[int, int]
"""Number of a photo, and the seed of its augmentation."""


@dataclass(frozen=True)
class Batch:
    """Photos on their way to the classifier."""

    images: Tensor  # [B, 3, S, S] float32 in 0..1
    labels: Tensor  # [B] int64


@dataclass(frozen=True)
class Schedule:
    """The photos of each step."""

    photos: int
    options: OptimiserOptions
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; photos that fill no batch wait for another epoch."""
        share = max(2, int(self.photos * self.options.share_per_epoch))
        return max(1, share // self.options.batch_size)

    @property
    def steps(self) -> int:
        """Batches of the whole run."""
        return self.steps_per_epoch * self.options.epochs

    def items(self, step: int) -> list[Item]:
        """Return the photos of a step and the seeds of their augmentation."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = _shuffled(self.photos, self.seed, epoch)
        size = min(self.options.batch_size, self.photos)
        chosen = order[batch * size : (batch + 1) * size]
        return [
            (int(photo), derived_seed(self.seed, step, place)) for place, photo in enumerate(chosen)
        ]


@functools.lru_cache(maxsize=1)  # every step of an epoch asks for it
def _shuffled(photos: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 3, epoch]).permutation(photos)


def derived_seed(*numbers: int) -> int:
    """Return a seed for torch that depends on all the numbers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class AugmentedPhotos(Dataset[tuple[Tensor, int] | None]):
    """Photos, cropped and mirrored at random: RandomResizedCrop and flip, as published."""

    def __init__(self, photos: Sequence[Photo], options: DataOptions) -> None:
        """Take the photos; they are read when they are asked for."""
        self._photos, self._skip = photos, options.unreadable == "skip"
        side = options.image_size
        self._augment = v2.Compose(
            [
                v2.RandomResizedCrop(
                    (side, side), scale=(options.smallest_crop, 1), antialias=True
                ),
                v2.RandomHorizontalFlip(),
            ]
        )

    def __getitem__(self, item: Item) -> tuple[Tensor, int] | None:
        """Return image [3, S, S] uint8 and label, None for a photo to be skipped."""
        index, seed = item
        try:
            photo = torch.from_numpy(_pixels(self._photos[index]))
        except DataError:
            if self._skip:
                return None
            raise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._augment(photo), self._photos[index].label


def training_batches(
    photos: Sequence[Photo], options: DataOptions, schedule: Schedule, steps: range, *, share: slice
) -> Iterator[Batch]:
    """Yield the batches of some steps.

    Args:
        photos: All photos to train on.
        options: How they are augmented and read.
        schedule: Which photos each step sees.
        steps: The steps wanted.
        share: The part of every batch that is wanted, for one of several processes.

    Raises:
        DataError: a photo cannot be read, or none of a batch.
    """
    loader = DataLoader(
        AugmentedPhotos(photos, options),
        # One step after the other: those of a long run would take minutes and gigabytes.
        batch_sampler=(schedule.items(step)[share] for step in steps),
        num_workers=options.workers,
        collate_fn=_collate,
        persistent_workers=False,
    )
    yield from loader


def readable(photos: Iterable[Photo], options: DataOptions) -> Iterator[Photo]:
    """Yield the photos without those that are to be skipped because they cannot be read."""
    for photo in photos:
        try:
            if options.unreadable == "skip":
                _pixels(photo)
        except DataError:
            continue
        yield photo


def centre_crop(photo: Photo, size: int) -> Tensor:
    """Return a photo [3, S, S] uint8 as classifiers are tested: short side to 8/7 S, centre S."""
    image = torch.from_numpy(_pixels(photo))
    shorter = functional.resize(image, [round(size * 8 / 7)], antialias=True)
    cropped: Tensor = functional.center_crop(shorter, [size, size])
    return cropped


def _pixels(photo: Photo) -> NDArray[np.uint8]:
    """Return a photo [3, H, W] RGB."""
    try:
        return np.ascontiguousarray(read_image(photo.path).transpose(2, 0, 1))
    except ImageError as error:
        raise DataError(
            f"{error}: replace or remove the photo, or set data.unreadable to skip"
        ) from error


def _collate(items: Sequence[tuple[Tensor, int] | None]) -> Batch:
    found = [item for item in items if item is not None]
    if len(found) < 2:
        raise DataError(f"only {len(found)} of {len(items)} photos of a batch can be read")
    images = torch.stack([image for image, _ in found]).float() / 255
    return Batch(images, torch.tensor([label for _, label in found]))
