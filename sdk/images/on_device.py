"""Images that are on a GPU already: read where they lie, with the classes asked of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np

from klieg.backends import Backend, DeviceBackend
from klieg.errors import ImageError
from klieg.images.fitting import Box, Placement
from klieg.images.loading import Loaded
from klieg.images.targets import Targets, paired, resolve_targets
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.sharing import as_device_array
from klieg.methods.passes import DeviceBatch


def device_batches(
    images: Any,
    target: Targets,
    *,
    backend: Backend,
    size: int,
    channels: int,
    classes: int,
    class_names: tuple[str, ...] | None,
    batch_size: int,
) -> Iterator[tuple[Sequence[Loaded], DeviceBatch]]:
    """Yield an array of images on the device in batches; see `Explainer.explain`.

    Raises:
        ImageError: the engine computes elsewhere, or the array is not of the model's form.
        TargetError: a class does not exist, or their number is not that of the images.
    """
    if not hasattr(backend, "device"):
        raise ImageError(
            "the images are on a GPU, but the engine takes host arrays: open the Explainer with "
            "device='cuda.core', or copy the images to the host"
        )
    device = cast(DeviceBackend, backend).device
    array = as_device_array(images, device=device, dtypes=("uint8", "float32"))
    _check(array, size, channels)
    whole = Box(0, 0, size, size)
    placement = Placement(height=size, width=size, size=size, seen=whole, target=whole)
    pairs = enumerate(paired(range(array.shape[0]), target))
    while part := list(islice(pairs, batch_size)):
        loaded = [
            Loaded(
                _photo(array, number), str(number), placement,
                resolve_targets(asked, classes=classes, names=class_names),
            )
            for number, (_, asked) in part
        ]  # fmt: skip
        yield (
            loaded,
            DeviceBatch(
                array.rows(part[0][0], len(part)),
                targets=np.concatenate([np.array(one.targets, dtype=np.int64) for one in loaded]),
                owner=np.repeat(np.arange(len(loaded)), [len(one.targets) for one in loaded]),
            ),
        )


def _check(array: DeviceArray, size: int, channels: int) -> None:
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


def _photo(array: DeviceArray, number: int) -> DeviceArray:
    row = array.rows(number, 1)
    return DeviceArray(row.pointer, row.shape[1:], row.dtype, row.owner)
