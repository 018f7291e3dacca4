"""The GPU through NVIDIA's cuda.core, with cuda.bindings where cuda.core has nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray

from klieg.errors import OptionError
from klieg.kernels.device import Argument
from klieg.kernels.device.guarded import GuardedDevice
from klieg.kernels.device.libcuda import Libcuda

FATBIN: Final = b"\x50\xed\x55\xba"
CUBIN: Final = b"\x7fELF"


class CudaCoreDevice(GuardedDevice):
    """See `klieg.kernels.device.CudaDevice`.

    Memory comes from the GPU's stream-ordered pool. With a stream of somebody else, that stream
    must outlive the device and all memory allocated on it.
    """

    def __init__(self, index: int, stream: object | None, libcuda: Libcuda) -> None:
        """Open a GPU; see `klieg.kernels.device.opening.open_device`."""
        import cuda.core as core
        from cuda.bindings import driver

        super().__init__("cuda.core", index, libcuda)
        self._core, self._driver = core, driver
        with self._opening():
            previous = self._checked(driver.cuCtxGetCurrent())
            self._device = core.Device(index)
            self._device.set_current()
            self._context = self._device.context.handle
            if int(previous):  # whoever computes in this thread goes on in its own context
                self._checked(driver.cuCtxSetCurrent(previous))
        with self._calling("opening"):
            self._stream = self._opened(stream)
            self._handle = int(self._stream.handle) or int(driver.CU_STREAM_LEGACY)
            self.records: Final = self._handle != int(driver.CU_STREAM_LEGACY)  # CUDA forbids it
            self.name: Final[str] = self._device.name
            generation, variant = self._device.compute_capability
            self.architecture: Final[tuple[int, int]] = (generation, variant)
        self._builder: Any = None
        major, minor = libcuda.cuda_version()
        self.versions: Final[Mapping[str, str]] = MappingProxyType(
            {"cuda.core": core.__version__, "CUDA driver": f"{major}.{minor}"}
        )

    @property
    def stream(self) -> int:
        """See `Device`."""
        return self._handle

    def _opened(self, stream: object | None) -> Any:
        """Return an own stream that does not wait for the default one, or wrap a foreign one."""
        if stream is None:
            return self._device.create_stream(options=self._core.StreamOptions(nonblocking=True))
        if hasattr(stream, "__cuda_stream__"):
            foreign = self._device.create_stream(stream)  # keeps the object alive
        elif isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
            foreign = self._core.Stream.from_handle(stream or int(self._driver.CU_STREAM_LEGACY))
        else:
            raise OptionError(
                f"stream is {stream!r}, expected the handle of a CUDA stream as a whole number, "
                "an object with __cuda_stream__, or None for an own stream"
            )
        if foreign.device.device_id != self.index:
            raise OptionError(
                f"the stream is of GPU {foreign.device.device_id}, but GPU {self.index} was asked "
                f"for: open the device with index={foreign.device.device_id}"
            )
        return foreign

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        from cuda.core._utils.cuda_utils import CUDAError

        return (CUDAError,)

    def _code(self, error: Exception) -> int | None:
        name = re.match(r"CUDA_ERROR_\w+", str(error))
        code = getattr(self._driver.CUresult, name[0], None) if name else None
        return None if code is None else int(code)

    def _checked(self, result: tuple[Any, ...]) -> Any:
        """Return the value of a call of cuda.bindings, raising what cuda.core raises."""
        from cuda.core._utils.cuda_utils import handle_return

        return handle_return(result)

    @contextmanager
    def _activated(self) -> Iterator[None]:
        self._checked(self._driver.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self._checked(self._driver.cuCtxPopCurrent())

    def _allocate(self, size: int) -> tuple[int, Callable[[], None]]:
        buffer = self._device.allocate(size, stream=self._stream)
        return int(buffer.handle), buffer.close

    def _copy_in(self, destination: int, source: NDArray[Any]) -> None:
        self._checked(
            self._driver.cuMemcpyHtoDAsync(
                destination, source.ctypes.data, source.nbytes, self._handle
            )
        )

    def _copy_out(self, destination: NDArray[Any], source: int) -> None:
        self._checked(
            self._driver.cuMemcpyDtoHAsync(
                destination.ctypes.data, source, destination.nbytes, self._handle
            )
        )

    def _copy_across(self, destination: int, source: int, size: int) -> None:
        self._checked(self._driver.cuMemcpyDtoDAsync(destination, source, size, self._handle))

    def _load(self, code: bytes) -> Any:
        kinds = {FATBIN: self._core.ObjectCode.from_fatbin, CUBIN: self._core.ObjectCode.from_cubin}
        library = kinds.get(code[:4], self._core.ObjectCode.from_ptx)(code)
        _ = library.handle  # cuda.core loads at the first use, and failures belong here
        return library

    def _function(self, library: Any, name: str) -> Any:
        return library.get_kernel(name)

    def _allow_shared(self, function: Any, size: int) -> None:
        attribute = (
            self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        )
        gpu = self._checked(self._driver.cuDeviceGet(self.index))
        self._checked(self._driver.cuKernelSetAttribute(attribute, size, function.handle, gpu))

    def _launch(
        self,
        function: Any,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        shared: int,
    ) -> None:
        shape = self._core.LaunchConfig(grid=grid, block=block, shmem_size=shared)
        self._core.launch(self._stream, shape, function, *arguments)

    def _wait(self) -> None:
        self._stream.sync()

    def _begin_recording(self) -> None:
        self._builder = self._stream.create_graph_builder()
        self._builder.begin_building("thread_local")

    def _end_recording(self) -> Any:
        builder, self._builder = self._builder, None
        return builder.end_building().complete()

    def _launch_graph(self, graph: Any) -> None:
        graph.launch(self._stream)

    def _drop_stream(self) -> None:
        self._stream = self._builder = None  # cuda.core frees it after the last buffer
