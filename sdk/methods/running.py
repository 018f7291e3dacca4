"""Runs a method on a batch where its engine is: on the host, or on a GPU from end to end."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from klieg.backends import Backend, DeviceBackend, is_device_backend
from klieg.errors import BackendError, DeviceError, OptionError
from klieg.images.batch import Batch
from klieg.kernels.device import Device
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.replay import ReplayDevice, Replays
from klieg.kernels.normalisation import as_masks, normalise
from klieg.methods.passes import Maps, Passes, Units
from klieg.model_file.methods import find_method

if TYPE_CHECKING:
    from klieg.kernels.cuda.kernels import Kernels
    from klieg.methods.on_device import DeviceMaps


class Running:
    """The methods of one explainer file on one engine."""

    def __init__(self, passes: Passes, backend: Backend) -> None:
        """Load klieg's kernels if the engine is on a GPU."""
        self._passes, self._backend = passes, backend
        self._kernels: Kernels | None = None
        self._replays: Replays[DeviceMaps] | None = None
        self._lock: AbstractContextManager[object] = nullcontext()
        self._closed = False
        if is_device_backend(backend):
            from klieg.kernels.cuda.kernels import Kernels

            device = backend.device
            self._kernels = Kernels(device)
            if isinstance(device, ReplayDevice):
                self._replays = Replays(device)
                # Held until a batch's results are copied: the next one overwrites them.
                self._lock = threading.Lock()

    def close(self) -> None:
        """Free what is kept of batches; to be called before the engine is closed."""
        with self._lock:
            self._closed = True
            if self._replays is not None:
                self._replays.clear()

    def __call__(
        self,
        batch: Batch,
        method: str,
        sizes: Sequence[int],
        options: Mapping[str, float],
    ) -> Maps:
        """Explain a batch.

        Args:
            batch: Images of size sizes[0] and classes.
            method: Its name in the table.
            sizes: Image sizes of its passes.
            options: Numbers that it takes, all of them.

        Raises:
            OptionError: images on a device are given to a method that computes on the host.
            BackendError: the engine failed.
        """
        if self._closed:
            raise BackendError("the explainer is closed: open it again")
        if self._kernels is not None:
            from klieg.methods.on_device import ON_DEVICE

            if method in ON_DEVICE:
                with self._lock:
                    return self._on_device(batch, method, sizes, self._kernels)
        if isinstance(batch.images, DeviceArray):
            raise OptionError(
                f"method {method!r} computes on the host, but the images are on a GPU: use "
                "'cameras' or 'casm', or pass host arrays"
            )
        entry = find_method(method)
        result = entry.function(self._passes, batch, sizes, **options)
        maps, degenerate = (as_masks if entry.bounded else normalise)(result.raw)
        return Maps(result.raw, result.logits, result.targets, result.scales_used, maps, degenerate)

    def _on_device(self, batch: Batch, method: str, sizes: Sequence[int], kernels: Kernels) -> Maps:
        from klieg.methods.on_device import ON_DEVICE, DeviceQuestions, fetch

        device = kernels.device
        backend = cast(DeviceBackend, self._backend)
        outputs = find_method(method).outputs
        units = self._passes.units(batch, outputs)
        each = units.targets.shape[1]
        rows = units.row * each + units.place
        targets = units.targets.astype(np.int64).ravel()
        backend.check(images=len(units.images), sizes=sizes, targets=each, outputs=outputs)

        def enqueue(arrays: list[DeviceArray]) -> DeviceMaps:
            return ON_DEVICE[method](backend, kernels, DeviceQuestions(*arrays), sizes)

        try:
            images = _inputs(batch, units, device)
            if self._replays is None:
                found = enqueue([DeviceArray.on(device, array) for array in (images, targets)])
            else:
                form = (method, tuple(sizes), images.shape, images.dtype, targets.shape)
                found = self._replays(form, (images, targets), enqueue)
            return fetch(found, device, sizes, names=units.images, images=units.row, rows=rows)
        except BaseException:
            # Images of somebody else's are held by `batch`: not let go while they are read.
            with suppress(DeviceError):
                device.synchronise()
            raise


def _inputs(batch: Batch, units: Units, device: Device) -> NDArray[Any] | DeviceArray:
    """Return the images of the units; on a device without a copy where they lie in order."""
    if not isinstance(batch.images, DeviceArray):
        return np.asarray(batch.images[units.images])
    if units.in_order:
        return batch.images
    return batch.images.gathered(device, units.images.tolist())
