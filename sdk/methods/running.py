"""Runs a method on a GPU from end to end, batch by batch, replayed where the device can."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.backends import DeviceBackend
from klieg.errors import BackendError, DeviceError
from klieg.images.batch import Batch
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.device import Device, Workspace
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.replay import Replays
from klieg.methods.model import EngineRows, Maps, Model
from klieg.methods.on_device import DeviceMaps, DeviceQuestions, fetch
from klieg.model_file.methods import Method


class DeviceRunner:
    """Methods of one explainer file on the GPU of its engine."""

    def __init__(self, model: Model, backend: DeviceBackend) -> None:
        """Load klieg's kernels."""
        self._model, self._backend = model, backend
        self._kernels = Kernels(backend.device)
        self._replays: Replays[DeviceMaps] | None = None
        self._lock: AbstractContextManager[object] = nullcontext()
        self._closed = False
        if backend.replays:
            self._replays = Replays(backend.device)
            # Held until a batch's results are copied: the next one overwrites them.
            self._lock = threading.Lock()

    def close(self) -> None:
        """Free what is kept of batches; to be called before the engine is closed."""
        with self._lock:
            self._closed = True
            if self._replays is not None:
                self._replays.clear()

    def __call__(self, batch: Batch, method: Method, sizes: Sequence[int]) -> Maps:
        """Explain a batch.

        Args:
            batch: Images of size sizes[0] and classes.
            method: One that has a form for devices.
            sizes: Image sizes of its passes.

        Raises:
            BackendError: the engine failed.
        """
        with self._lock:
            if self._closed:
                raise BackendError("the explainer is closed: open it again")
            return self._run(batch, method, sizes)

    def _run(self, batch: Batch, method: Method, sizes: Sequence[int]) -> Maps:
        backend, device, outputs = self._backend, self._backend.device, method.outputs
        function = method.device_function
        engine_rows = self._model.engine_rows(batch, outputs)
        each = engine_rows.targets.shape[1]
        rows = engine_rows.row * each + engine_rows.place
        targets = engine_rows.targets.astype(np.int64).ravel()
        backend.check(images=len(engine_rows.images), sizes=sizes, targets=each, outputs=outputs)

        def enqueue(arrays: list[DeviceArray], workspace: Workspace) -> DeviceMaps:
            kernels = self._kernels.within(workspace)
            found: DeviceMaps = function(backend, kernels, DeviceQuestions(*arrays), sizes)
            return found

        try:
            images = _inputs(batch, engine_rows, device)
            if self._replays is None:
                arrays = [DeviceArray.on(device, array) for array in (images, targets)]
                found = enqueue(arrays, device)
            else:
                form = (method.on_device, tuple(sizes), images.shape, images.dtype, targets.shape)
                found = self._replays(form, (images, targets), enqueue)
            return fetch(
                found, device, sizes, names=engine_rows.images, images=engine_rows.row, rows=rows
            )
        except BaseException:
            # Images of somebody else's are held by `batch`: not let go while they are read.
            with suppress(DeviceError):
                device.synchronise()
            raise


def _inputs(batch: Batch, engine_rows: EngineRows, device: Device) -> NDArray[Any] | DeviceArray:
    """Return the images of the engine's rows, without a copy where they lie on it in order."""
    if not isinstance(batch.images, DeviceArray):
        return np.asarray(batch.images[engine_rows.images])
    if engine_rows.in_order:
        return batch.images
    return batch.images.gathered(device, engine_rows.images.tolist())
