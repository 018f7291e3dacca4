"""From what the caller hands over to images of one size with the classes asked of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import ImageError
from klieg.images.arrays import as_image
from klieg.images.decoding import read_image
from klieg.images.fitting import Fit, Placement, fit_image
from klieg.images.targets import Targets, paired, resolve_targets
from klieg.kernels.device.array import DeviceArray
from klieg.methods.passes import Batch

Image = NDArray[Any] | str | os.PathLike[str]
"""One photo: [H, W, 3] RGB in 0..255, or the path of a JPEG, PNG or BMP file."""


@dataclass(frozen=True)
class Loaded:
    """One image on its way into a batch."""

    photo: NDArray[Any] | DeviceArray  # [H, W, 3]; on a device as it was given
    name: str
    placement: Placement
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Fitted(Loaded):
    """One image on the host, fitted to the model."""

    fitted: NDArray[np.float32]  # [S, S, 3] in 0..255


def listed_images(images: NDArray[Any] | Image | Iterable[Image]) -> list[Image]:
    """Return the images of one call as a list."""
    if isinstance(images, str | os.PathLike):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim != 4:
        hint = ": for a single image pass image[None]" if images.ndim == 3 else ""
        raise ImageError(f"got an array of shape {list(images.shape)}, expected [B, H, W, 3]{hint}")
    return list(images)


def load(
    images: Iterable[Image],
    target: Targets,
    *,
    size: int,
    fit: Fit,
    classes: int,
    class_names: tuple[str, ...] | None,
    on_image_error: Callable[[ImageError], None] | None,
) -> Iterator[Fitted]:
    """Read, check and fit images one by one; see `Explainer.explain_iter`."""
    for number, (image, asked) in enumerate(paired(images, target)):
        targets = resolve_targets(asked, classes=classes, names=class_names)
        try:
            if isinstance(image, str | os.PathLike):
                photo, name = read_image(image), os.fspath(image)
            else:
                photo, name = as_image(image), str(number)
        except ImageError as error:
            named = type(error)(f"image {number}: {error}")
            if on_image_error is None:
                raise named from error
            on_image_error(named)
            continue
        fitted, placement = fit_image(photo, size, fit)
        yield Fitted(photo, name, placement, targets, fitted)


def as_batch(loaded: Sequence[Fitted], channels: int) -> Batch:
    """Put images of one size together, as grey ones for a model of one channel.

    Raises:
        ImageError: the model takes neither grey nor RGB images.
    """
    if channels not in (1, 3):
        raise ImageError(
            f"the model takes images of {channels} channels, but photos have 3 (or 1, if grey): "
            "use `Explainer.backend` for passes of your own"
        )
    size = loaded[0].fitted.shape[0]
    images = np.empty((len(loaded), channels, size, size), dtype=np.float32)
    for image, one in zip(images, loaded, strict=True):
        if channels == 1:
            cv2.cvtColor(one.fitted, cv2.COLOR_RGB2GRAY, dst=image[0])
        else:
            image[...] = one.fitted.transpose(2, 0, 1)
    return Batch(
        images,
        targets=np.concatenate([np.array(one.targets, dtype=np.int64) for one in loaded]),
        owner=np.repeat(np.arange(len(loaded)), [len(one.targets) for one in loaded]),
    )
