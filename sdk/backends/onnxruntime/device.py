"""ONNX Runtime on a GPU, with inputs and outputs that stay there: for klieg's own kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from klieg.backends.onnxruntime.backend import OnnxRuntimeBackend
from klieg.backends.onnxruntime.providers import CUDA, TENSORRT
from klieg.errors import BackendError, OptionError
from klieg.kernels.device import CudaDevice, Workspace
from klieg.kernels.device.array import DeviceArray
from klieg.model_file.explainer_file import ExplainerFile

MEMORY: Final[dict[str, str]] = {CUDA: "cuda", TENSORRT: "cuda"}
"""Providers that compute where the device's addresses mean something, and how ONNX Runtime calls
their memory."""


class OnnxRuntimeDeviceBackend(OnnxRuntimeBackend):
    """Sessions that share a device's stream; see `DeviceBackend`."""

    def __init__(
        self,
        file: ExplainerFile,
        *,
        device: CudaDevice,
        providers: Sequence[str],
        threads: int | None = None,
    ) -> None:
        """Open a session.

        Args:
            file: The explainer.
            device: The GPU and the stream on it; it stays open when the backend is closed.
            providers: ONNX Runtime's execution providers, first choice first.
            threads: Threads of what runs on the processor; None for all cores.

        Raises:
            OptionError: the first provider does not compute on a GPU.
            BackendError: ONNX Runtime is not installed, lacks a provider, cannot start it, or
                refuses the file.
            UnsafeFileError: the file holds a compiled engine.
        """
        if not providers or providers[0] not in MEMORY:
            raise OptionError(
                f"providers are {list(providers)}, expected one of {', '.join(MEMORY)} first: with "
                "a device the engine computes on the GPU"
            )
        self._device = device
        self._memory = MEMORY[providers[0]]
        super().__init__(file, providers=providers, threads=threads)
        self._versions = {**self._versions, **device.versions, "gpu": device.name}

    @property
    def device(self) -> CudaDevice:
        """See `DeviceBackend`."""
        return self._device

    def check(
        self, *, images: int, sizes: Sequence[int], targets: int, outputs: Sequence[str]
    ) -> None:
        """See `DeviceBackend`; a session takes whatever the file takes."""

    @property
    def replays(self) -> bool:
        """See `DeviceBackend`; ONNX Runtime allocates where it likes: nothing can be recorded."""
        return False

    def enqueue(
        self,
        images: DeviceArray,
        targets: DeviceArray,
        outputs: Sequence[str],
        *,
        workspace: Workspace,
    ) -> list[DeviceArray]:
        """See `DeviceBackend`; ONNX Runtime has memory of its own."""
        import onnxruntime

        if self._closed:
            raise BackendError("the explainer is closed: open it again")
        session = self._session(outputs)
        options = onnxruntime.RunOptions()
        # Order on the stream is all that is needed: the host goes on.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        try:
            binding = session.io_binding()
            for name, array in (("image", images), ("target", targets)):
                binding.bind_input(
                    name,
                    self._memory,
                    self._device.index,
                    array.dtype.type,
                    array.shape,
                    array.pointer,
                )
            for name in outputs:
                binding.bind_output(name, self._memory, self._device.index)
            session.run_with_iobinding(binding, options)
            values = binding.get_outputs()
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed on images of shape {list(images.shape)}: {error}"
            ) from error
        return [
            DeviceArray(value.data_ptr(), tuple(value.shape()), np.dtype(np.float32), value)
            for value in values
        ]

    def _provider_settings(self, name: str) -> Mapping[str, str]:
        settings = super()._provider_settings(name)
        if MEMORY.get(name) != "cuda":
            return settings
        return {
            **settings,
            "device_id": str(self._device.index),
            "user_compute_stream": str(self._device.stream),
        }
