"""From what a caller hands over to batches: photos, and the classes asked of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import ImageError, TargetError
from klieg.images.arrays import as_image
from klieg.images.batch import Array, Batch
from klieg.images.fitting import Box, Fit, Placement, fit_image
from klieg.images.formats import read_image
from klieg.images.targets import PREDICTED, Targets, classes_asked, is_single
from klieg.kernels.device import CudaDevice
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.sharing import as_device_array, is_on_device
from klieg.model_file.explainer_file import ExplainerFile

Image = NDArray[Any] | str | os.PathLike[str]
"""One photo: [H, W, 3] RGB in 0..255, or the path of a file in one of `FORMATS`."""

T = TypeVar("T")


@dataclass(frozen=True)
class Photos:
    """Photos of one batch as they were given, with the classes asked of each."""

    photos: tuple[Any, ...]
    """B of [H, W, 3] RGB in 0..255; a `DeviceArray` where they were given on a GPU."""
    names: tuple[str, ...]
    """B paths as given, for arrays the number of the image in the call."""
    targets: tuple[tuple[int, ...], ...]
    """B times one class or more, -1 for the predicted one."""
    on_device: DeviceArray | None = None
    """All photos in one array on a GPU, [B, ...], if they were given there."""

    def untargeted(self) -> Photos:
        """Return the photos with the predicted class asked of each."""
        return replace(self, targets=((PREDICTED,),) * len(self.photos))


class Intake:
    """Reads, checks and fits what one explainer file takes."""

    def __init__(self, file: ExplainerFile, device: CudaDevice | None) -> None:
        """Note what the file takes, and the GPU that its engine computes on, if on any."""
        self._channels, self._classes = file.channels, file.classes
        self._class_names, self._device = file.info.class_names, device

    def read(
        self,
        images: NDArray[Any] | Iterable[Image],
        target: Targets,
        *,
        batch_size: int,
        on_image_error: Callable[[ImageError], None] | None,
    ) -> Iterator[Photos]:
        """Read and check photos, a batch at a time; see `Explainer.explain_iter`."""
        if not isinstance(images, np.ndarray | list) and is_on_device(images):
            yield from self._on_device(images, target, batch_size)
            return
        found: list[tuple[NDArray[Any], str, tuple[int, ...]]] = []
        for number, (image, classes) in enumerate(self._asked(images, target)):
            try:
                if isinstance(image, str | os.PathLike):
                    found.append((read_image(image), os.fspath(image), classes))
                else:
                    found.append((as_image(image), str(number), classes))
            except ImageError as error:
                named = type(error)(f"image {number}: {error}")
                if on_image_error is None:
                    raise named from error
                on_image_error(named)
            if len(found) == batch_size:
                yield Photos(*zip(*found, strict=True))
                found = []
        if found:
            yield Photos(*zip(*found, strict=True))

    def fit(self, given: Photos, size: int, fit: Fit) -> tuple[Batch, tuple[Placement, ...]]:
        """Fit photos to an input of `size` x `size`, and say how each lies on it.

        Raises:
            ImageError: the model takes neither grey nor RGB images, or an array on a GPU is not of
                the model's form.
        """
        if given.on_device is None:
            fitted = [fit_image(photo, size, fit) for photo in given.photos]
            images: Any = self._stacked([image for image, _ in fitted], size)
            placements = tuple(placement for _, placement in fitted)
        else:
            images = _checked(given.on_device, size, self._channels)
            whole = Box(0, 0, size, size)
            placement = Placement(height=size, width=size, size=size, seen=whole, target=whole)
            placements = (placement,) * len(given.photos)
        targets = np.array([one for asked in given.targets for one in asked], dtype=np.int64)
        image_index = np.repeat(np.arange(len(given.targets)), list(map(len, given.targets)))
        return Batch(images, targets, image_index), placements

    def _asked(self, images: Iterable[T], target: Targets) -> Iterator[tuple[T, tuple[int, ...]]]:
        """Yield every image with the classes asked of it."""
        targets = classes_asked(target, classes=self._classes, names=self._class_names)
        expected, count = "expected one target per image, or a single one for all", 0
        for image in images:
            if (classes := next(targets, None)) is None:
                raise TargetError(f"got {count} targets but more images, {expected}")
            yield image, classes
            count += 1
        if not is_single(target) and next(targets, None) is not None:
            raise TargetError(f"got {count} images but more targets, {expected}")

    def _stacked(self, fitted: list[Array], size: int) -> Array:
        """Put images [S, S, 3] together as [B, channels, S, S], grey for a model of one channel."""
        if self._channels not in (1, 3):
            raise ImageError(
                f"the model takes images of {self._channels} channels, but photos have 3 (or 1, if "
                "grey): use `Explainer.backend` for passes of your own"
            )
        images = np.empty((len(fitted), self._channels, size, size), dtype=np.float32)
        for image, one in zip(images, fitted, strict=True):
            if self._channels == 1:
                cv2.cvtColor(one, cv2.COLOR_RGB2GRAY, dst=image[0])
            else:
                image[...] = one.transpose(2, 0, 1)
        return images

    def _on_device(self, images: Any, target: Targets, batch_size: int) -> Iterator[Photos]:
        """Take over an array of images that is on a GPU already: it is read where it lies."""
        if self._device is None:
            raise ImageError(
                "the images are on a GPU, but the engine takes host arrays: open the Explainer "
                "with backend=OnnxRuntime(device='cuda.core'), or copy the images to the host"
            )
        array = as_device_array(images, device=self._device, dtypes=("uint8", "float32"))
        asked = [classes for _, classes in self._asked(range(array.shape[0]), target)]
        for start in range(0, len(asked), batch_size):
            classes = tuple(asked[start : start + batch_size])
            numbers = range(start, start + len(classes))
            yield Photos(
                tuple(_photo(array, number) for number in numbers),
                tuple(map(str, numbers)),
                classes,
                array.rows(start, len(classes)),
            )


def listed_images(images: NDArray[Any] | Image | Iterable[Image]) -> Any:
    """Return the images of one call as something with a length; an array on a GPU stays itself."""
    if isinstance(images, str | os.PathLike):
        return [images]
    if isinstance(images, np.ndarray):
        if images.ndim != 4:
            hint = ": for a single image pass image[None]" if images.ndim == 3 else ""
            raise ImageError(
                f"got an array of shape {list(images.shape)}, expected [B, H, W, 3]{hint}"
            )
        return list(images)
    return images if not isinstance(images, list) and is_on_device(images) else list(images)


def _checked(array: DeviceArray, size: int, channels: int) -> DeviceArray:
    forms = {
        np.dtype(np.uint8): (size, size, channels),
        np.dtype(np.float32): (channels, size, size),
    }
    if len(array.shape) != 4 or array.shape[1:] != forms.get(array.dtype):
        raise ImageError(
            f"images on the GPU are {array.dtype} {list(array.shape)}, expected uint8 "
            f"[B, {size}, {size}, {channels}] or float32 [B, {channels}, {size}, {size}], in "
            "0..255: fit them to the model's input first"
        )
    return array


def _photo(array: DeviceArray, number: int) -> DeviceArray:
    row = array.rows(number, 1)
    return DeviceArray(row.pointer, row.shape[1:], row.dtype, row.owner)
