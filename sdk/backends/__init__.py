"""Inference engines behind one small protocol, chosen by name and never swapped silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from klieg.errors import OptionError
from klieg.kernels.device import CudaDevice
from klieg.kernels.device.array import DeviceArray
from klieg.model_file.explainer_file import ExplainerFile


class Backend(Protocol):
    """An engine that has loaded one explainer file."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Names and versions of what computes."""

    def run(
        self, images: NDArray[np.float32], targets: NDArray[np.int64], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Compute some outputs of the file.

        Args:
            images: [B, channels, H, W] in 0..255.
            targets: [B], -1 for the predicted class.
            outputs: Names of the outputs wanted.

        Returns:
            New arrays, one per name, as the file declares them.

        Raises:
            BackendError: the engine failed.
        """

    def close(self) -> None:
        """Free the engine; it cannot be used afterwards."""


class DeviceBackend(Backend, Protocol):
    """An engine whose inputs and outputs can stay on a GPU."""

    @property
    def device(self) -> CudaDevice:
        """Where it computes; everything is enqueued on its stream."""

    def check(
        self, *, images: int, sizes: Sequence[int], targets: int, outputs: Sequence[str]
    ) -> None:
        """Raise EngineError unless passes of these forms can be enqueued.

        Args:
            images: Number of images in a pass.
            sizes: Heights, which are widths, of the images of all passes.
            targets: Classes per image.
            outputs: Names of the outputs wanted.
        """

    def enqueue(
        self, images: DeviceArray, targets: DeviceArray, outputs: Sequence[str]
    ) -> list[DeviceArray]:
        """Enqueue a pass and return where its outputs will be; does not wait.

        Args:
            images: [B, channels, H, W] float32 in 0..255.
            targets: [B], or [B * n] with several targets, int64, -1 for the predicted class.
            outputs: Names of the outputs wanted.

        Returns:
            Arrays, one per name, as the file declares them. Their memory is theirs: it is not
            written to by later passes as long as they are held.

        Raises:
            BackendError: the engine failed, or holds no profile for this size.
        """


@dataclass(frozen=True)
class EngineChoice:
    """Which engine computes, and where."""

    backend: str
    providers: Sequence[str] | None = None
    threads: int | None = None
    device: CudaDevice | None = None
    engines: Path | None = None


def _onnxruntime(file: ExplainerFile, choice: EngineChoice) -> Backend:
    _refuse(choice, "engines")
    if choice.device is None:
        from klieg.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(file, providers=choice.providers, threads=choice.threads)
    from klieg.backends.onnxruntime_device import OnnxRuntimeDeviceBackend

    providers = ("CUDAExecutionProvider",) if choice.providers is None else choice.providers
    return OnnxRuntimeDeviceBackend(
        file, device=choice.device, providers=providers, threads=choice.threads
    )


def _tensorrt(file: ExplainerFile, choice: EngineChoice) -> Backend:
    _refuse(choice, "providers", "threads")
    if choice.device is None:
        raise OptionError(
            "backend 'tensorrt' computes on a GPU: choose how to drive it, device='cuda.core' or "
            "device='pycuda'"
        )
    from klieg.backends.tensorrt.backend import TensorRTBackend

    return TensorRTBackend(file, device=choice.device, engines=choice.engines)


BACKENDS: Mapping[str, Callable[[ExplainerFile, EngineChoice], Backend]] = MappingProxyType(
    {"onnxruntime": _onnxruntime, "tensorrt": _tensorrt}
)


def open_backend(file: ExplainerFile, choice: EngineChoice) -> Backend:
    """Load an explainer file into an engine.

    Raises:
        OptionError: there is no such engine, or an option is impossible or not the engine's.
        BackendError: the engine is not installed, lacks a provider, or refuses the file.
    """
    if choice.backend not in BACKENDS:
        raise OptionError(f"unknown backend {choice.backend!r}, expected one of {sorted(BACKENDS)}")
    if choice.threads is not None and choice.threads < 1:
        raise OptionError(
            f"threads is {choice.threads}, expected at least 1, or None for all cores"
        )
    return BACKENDS[choice.backend](file, choice)


def _refuse(choice: EngineChoice, *options: str) -> None:
    for option in options:
        if getattr(choice, option) is not None:
            raise OptionError(f"backend {choice.backend!r} has no {option}: leave it out")
