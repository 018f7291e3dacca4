"""TensorRT: engines built on the device they run on, cached, checked and executed."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from klieg.backends.protocol import Backend, opened_on
from klieg.errors import OptionError
from klieg.kernels.device import CudaDevice
from klieg.model_file.explainer_file import ExplainerFile


@dataclass(frozen=True, kw_only=True)
class TensorRT:
    """TensorRT as an engine, with what `klieg build` has built; see `Engine`."""

    device: str | CudaDevice | None = None
    """What drives the GPU: see `OnnxRuntime`. There is no default."""
    engines: str | os.PathLike[str] | None = None
    """Folder of the engines of `klieg build`; None for its default."""
    replay: bool = False
    """Run batches of a form seen twice before as one CUDA graph, which saves the launches and keeps
    the memory of the last four forms. One thread at a time then computes."""

    def opened(self, file: ExplainerFile) -> AbstractContextManager[Backend]:
        """Load an explainer file; see `Engine`.

        Raises:
            EngineError: engines are missing, damaged, or those of another GPU.
            DeviceError: there is no usable GPU.
        """
        if self.device is None:
            raise OptionError(
                "backend 'tensorrt' computes on a GPU: choose how to drive it, device='cuda.core' "
                "or device='pycuda'"
            )
        from klieg.backends.tensorrt.backend import TensorRTBackend

        folder = None if self.engines is None else Path(self.engines)
        return opened_on(
            self.device,
            lambda device: TensorRTBackend(file, device=device, engines=folder, replay=self.replay),
        )
