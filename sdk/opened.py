"""An explainer file loaded into an engine."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from klieg.backends import Backend, EngineChoice, open_backend
from klieg.errors import OptionError
from klieg.kernels.device import CudaDevice
from klieg.kernels.device.replay import ReplayDevice
from klieg.methods.passes import Passes
from klieg.methods.running import Running
from klieg.model_file.explainer_file import ExplainerInfo, read_explainer


class OpenedFile:
    """What is known about an explainer file, and passes through it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        backend: str = "onnxruntime",
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        device: str | CudaDevice | None = None,
        engines: str | os.PathLike[str] | None = None,
        replay: bool = False,
    ) -> None:
        """Read, check and load an explainer file.

        What is asked for is used, or an error says why not.

        Args:
            path: A file written by `klieg export`.
            backend: Name of the engine: "onnxruntime", or "tensorrt" with what `klieg build` built.
            providers: Execution providers of ONNX Runtime, such as "CUDAExecutionProvider"; None
                for the processor, with a device for CUDA.
            threads: Threads of one inference; None for all cores.
            device: What drives the GPU: "cuda.core" or "pycuda", with ":1" behind it for the
                second one, or a device from `klieg.kernels.device.opening.open_device`, say on a
                stream of your own. "cameras" and "casm" then stay on the GPU from the images to
                the maps. None for an engine that takes and returns host arrays.
            engines: Folder of the engines of `klieg build`; None for its default.
            replay: With TensorRT: run batches of a form seen twice before as one CUDA graph, which
                saves the launches and keeps the memory of the last four forms. One thread at a
                time then computes.

        Raises:
            ExplainerFileError: the file is no explainer, or is not safe to load.
            BackendError: the engine is not installed, lacks a provider, or refuses the file.
            DeviceError: there is no usable GPU.
            EngineError: TensorRT's engines are missing, damaged, or those of another GPU.
            OptionError: an option has an impossible value.
        """
        file = read_explainer(path)
        self._info = file.info
        self._channels, self._classes = file.channels, file.classes
        self._fixed_size, self._outputs = file.fixed_size, file.outputs
        folder = None if engines is None else Path(engines)
        with ExitStack() as opened:
            used: CudaDevice | None
            if isinstance(device, str):
                from klieg.kernels.device.opening import open_device

                used = open_device(device)
                opened.callback(used.close)
            else:
                used = device
            if replay:
                used = _replaying(backend, used)
            choice = EngineChoice(backend, providers, threads, used, folder)
            self._backend = open_backend(file, choice)
            opened.callback(self._backend.close)
            self._passes = Passes(self._backend, file.info, several_targets=file.several_targets)
            self._running = Running(self._passes, self._backend)
            opened.callback(self._running.close)
            self._opened = opened.pop_all()
        self._versions = {
            "klieg": importlib.metadata.version("klieg"),
            **self._backend.versions,
            "explainer_sha256": file.sha256,
        }

    @property
    def info(self) -> ExplainerInfo:
        """What the explainer file says about itself."""
        return self._info

    @property
    def backend(self) -> Backend:
        """The engine, for passes of one's own."""
        return self._backend

    @property
    def passes(self) -> Passes:
        """Checked passes through the engine, as the methods use them."""
        return self._passes

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classes

    @property
    def channels(self) -> int:
        """Number of channels of the model's images."""
        return self._channels

    @property
    def versions(self) -> Mapping[str, str]:
        """What computes: klieg, the engine, the digest of the explainer file."""
        return self._versions

    @property
    def outputs(self) -> frozenset[str]:
        """What the explainer file computes."""
        return self._outputs

    def check_outputs(self, name: str, outputs: Iterable[str], *, export_for: str) -> None:
        """Raise OptionError if the file lacks an output that `name` needs."""
        missing = sorted(set(outputs) - self._outputs)
        if missing:
            option = "--masker NAME" if missing[0] == "mask" else f"--methods {export_for}"
            raise OptionError(
                f"{name} needs the output {missing[0]!r}, which this explainer file lacks: "
                f"export the model again with `{option}`"
            )

    def close(self) -> None:
        """Free the engine, and the device unless it was given as one."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _replaying(backend: str, device: CudaDevice | None) -> ReplayDevice:
    """Return a device whose batches can be replayed.

    Raises:
        OptionError: the engine or the device cannot do that.
    """
    if backend != "tensorrt" or device is None:
        raise OptionError(
            f"replay=True needs backend='tensorrt' and a device, got {backend!r}: leave it out"
        )
    if not device.records:
        raise OptionError(
            f"replay=True needs a device that records CUDA graphs, which {device.label} does not: "
            "use 'cuda.core' on a stream other than the default one, or leave it out"
        )
    return ReplayDevice(device)
