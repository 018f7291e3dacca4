"""TensorRT: the engine for NVIDIA GPUs, from plans that `klieg build` has put into a folder."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from klieg.backends.tensorrt.bindings import open_tensorrt
from klieg.backends.tensorrt.cache import EngineCache, Entry
from klieg.backends.tensorrt.engine import Engine
from klieg.backends.tensorrt.manifest import Platform
from klieg.backends.tensorrt.profiles import EngineOptions
from klieg.backends.tensorrt.selection import Selection
from klieg.errors import BackendError, DeviceError, ImageError, OptionError, TargetError
from klieg.kernels.device import CudaDevice, Workspace
from klieg.kernels.device.array import DeviceArray
from klieg.model_file.explainer_file import ExplainerFile


class TensorRTBackend:
    """Engines of one explainer file on one GPU; several threads may share it, one works at a time.

    Of the engines that hold the image size, the one with the fewest outputs besides those asked for
    computes. Engines are loaded when they are first needed. Nothing is built here, and nothing else
    computes if there is no engine.
    """

    def __init__(
        self,
        file: ExplainerFile,
        *,
        device: CudaDevice,
        engines: Path | None = None,
        replay: bool = False,
    ) -> None:
        """Look for the engines of a file.

        Args:
            file: The explainer.
            device: Where to compute; it stays open when the backend is closed.
            engines: The folder of engines; None for the default of `EngineCache`.
            replay: See `TensorRT`.

        Raises:
            OptionError: replay is asked of a device that does not record.
            EngineError: there is none for this file, GPU and version of TensorRT, or the folder
                holds something damaged.
            BackendError: TensorRT is not installed, or of an unknown version.
        """
        if replay and not device.records:
            raise OptionError(
                f"replay=True needs a device that records CUDA graphs, which {device.label} does "
                "not: use 'cuda.core' on a stream other than the default one, or leave it out"
            )
        self._opened = open_tensorrt()
        self._file, self._device, self._replays = file, device, replay
        self._platform = Platform.of(device, self._opened.version)
        self._cache = EngineCache(engines)
        self._selection = Selection(file, self._platform, self._cache, device.label)
        self._engines: dict[Path, Engine] = {}
        self._lock, self._closed = threading.Lock(), False
        self._versions = {
            **device.versions,
            "tensorrt": self._opened.version,
            "gpu": device.name,
        }

    @property
    def device(self) -> CudaDevice:
        """See `DeviceBackend`."""
        return self._device

    @property
    def replays(self) -> bool:
        """See `DeviceBackend`."""
        return self._replays

    @property
    def versions(self) -> Mapping[str, str]:
        """See `Backend`."""
        return self._versions

    def check(
        self, *, images: int, sizes: Sequence[int], targets: int, outputs: Sequence[str]
    ) -> None:
        """See `DeviceBackend`; the error says how to build an engine that holds all sizes."""
        with self._working():
            self._selection.check(
                outputs, EngineOptions(tuple(sorted(set(sizes))), images, targets)
            )

    def run(
        self, images: NDArray[np.float32], targets: NDArray[np.int64], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """See `Backend`; more images than the engine takes at once are passed in parts."""
        size, each = _question(images.shape, targets.shape)
        with self._working():
            entry = self._selection.choose(outputs, size=size, targets_per_image=each)
            engine, part = self._load(entry), entry.identity.options.max_batch
            parts = []
            for start in range(0, len(images), part):
                stop = start + part
                answers = engine.enqueue(
                    DeviceArray.of(self._device, images[start:stop]),
                    DeviceArray.of(self._device, targets[start * each : stop * each]),
                    outputs,
                    workspace=self._device,
                )
                parts.append([answer.to_host(self._device) for answer in answers])
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]

    def enqueue(
        self,
        images: DeviceArray,
        targets: DeviceArray,
        outputs: Sequence[str],
        *,
        workspace: Workspace,
    ) -> list[DeviceArray]:
        """See `DeviceBackend`; more images than an engine takes at once are refused.

        In parts their outputs would have to be copied together afterwards: an array's rows need not
        start where TensorRT can write.
        """
        size, each = _question(images.shape, targets.shape)
        with self._working():
            entry = self._selection.choose(
                outputs, size=size, targets_per_image=each, batch=images.shape[0]
            )
            return self._load(entry).enqueue(images, targets, outputs, workspace=workspace)

    def close(self) -> None:
        """See `Backend`; a lost GPU does not hide the error that is already on its way."""
        if self._closed:
            return
        self._closed, earlier = True, sys.exception()
        try:
            with self._device.activated(), self._lock:
                try:
                    self._device.synchronise()
                finally:
                    self._engines.clear()
        except DeviceError:
            if earlier is None:
                raise
        finally:
            self._engines.clear()  # also where the context cannot be activated any more

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Hold the GPU's context, which TensorRT computes in, and the lock: in this order."""
        with self._device.activated(), self._lock:
            if self._closed:
                raise BackendError("the explainer is closed: open it again")
            yield

    def _load(self, entry: Entry) -> Engine:
        if entry.plan not in self._engines:
            self._engines[entry.plan] = Engine(
                self._opened,
                self._cache.load(entry, self._file, self._platform),
                entry.identity.options,
                entry.identity.outputs,
                self._device,
            )
        return self._engines[entry.plan]


def _question(images: tuple[int, ...], targets: tuple[int, ...]) -> tuple[int, int]:
    """Return the size of the images in pixels and the number of classes asked of each."""
    if len(images) != 4 or images[0] < 1 or images[2] != images[3]:
        raise ImageError(f"images have the shape {list(images)}, expected [B, channels, S, S]")
    if len(targets) != 1 or targets[0] < 1 or targets[0] % images[0]:
        raise TargetError(
            f"targets have the shape {list(targets)} for {images[0]} images, expected [B], or "
            "[B * n] with n classes per image"
        )
    return images[2], targets[0] // images[0]
