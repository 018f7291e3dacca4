"""ONNX Runtime: the engine for processors, and for GPUs through its providers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass

from klieg.backends.protocol import Backend, opened_on
from klieg.errors import OptionError
from klieg.kernels.device import CudaDevice
from klieg.model_file.explainer_file import ExplainerFile


@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """ONNX Runtime as an engine, see `Engine`."""

    providers: Sequence[str] | None = None
    """Execution providers, first choice first, such as "CUDAExecutionProvider"; None for the
    processor, with a device for CUDA."""
    threads: int | None = None
    """Threads of one inference; None for all cores."""
    device: str | CudaDevice | None = None
    """What drives the GPU: "cuda.core" or "pycuda", with ":1" behind it for the second one, or a
    device from `klieg.open_device`, say on a stream of your own. "cameras" and "casm" then stay on
    the GPU from the images to the maps. None for an engine that takes and returns host arrays."""

    def opened(self, file: ExplainerFile) -> AbstractContextManager[Backend]:
        """Load an explainer file; see `Engine`."""
        if self.threads is not None and self.threads < 1:
            raise OptionError(
                f"threads is {self.threads}, expected at least 1, or None for all cores"
            )
        if self.device is None:
            from klieg.backends.onnxruntime.backend import OnnxRuntimeBackend

            return closing(OnnxRuntimeBackend(file, providers=self.providers, threads=self.threads))
        from klieg.backends.onnxruntime.device import OnnxRuntimeDeviceBackend
        from klieg.backends.onnxruntime.providers import CUDA

        providers = (CUDA,) if self.providers is None else self.providers
        return opened_on(
            self.device,
            lambda device: OnnxRuntimeDeviceBackend(
                file, device=device, providers=providers, threads=self.threads
            ),
        )
