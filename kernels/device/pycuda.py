"""The GPU through pycuda."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray

from klieg.errors import DeviceError, OptionError
from klieg.kernels.device import Argument
from klieg.kernels.device.guarded import GuardedDevice
from klieg.kernels.device.libcuda import OUT_OF_MEMORY, STICKY, Libcuda

NON_BLOCKING: Final = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream


class PyCudaDevice(GuardedDevice):
    """See `klieg.kernels.device.CudaDevice`.

    Memory comes from pycuda's pool, which hands freed memory only to later work of the same
    stream. The primary context is current during calls only.
    """

    records: Final = False

    def __init__(self, index: int, stream: object | None, libcuda: Libcuda) -> None:
        """Open a GPU; see `klieg.kernels.device.opening.open_device`.

        Raises:
            OptionError: a stream is given.
        """
        if stream is not None:
            raise OptionError(
                f"stream is {stream!r}, but pycuda cannot enqueue on a stream that it has not "
                "made, expected None: open 'cuda.core' to share a stream"
            )
        import pycuda
        import pycuda.driver as driver

        super().__init__("pycuda", index, libcuda)
        self._driver = driver
        with self._opening():
            driver.init()
            gpu = driver.Device(index)
            self._context = _primary_context(index)
            self.name: Final[str] = gpu.name()
            self.architecture: Final[tuple[int, int]] = gpu.compute_capability()
        codes = (OUT_OF_MEMORY, *sorted(STICKY))
        self._texts = {libcuda.error_text(code): code for code in codes}
        with self._calling("opening"):
            self._stream = driver.Stream(NON_BLOCKING)
            self._handle: int = self._stream.handle
            self._pool = driver.DeviceMemoryPool()
        major, minor = libcuda.cuda_version()
        self.versions: Final[Mapping[str, str]] = MappingProxyType(
            {"pycuda": pycuda.VERSION_TEXT, "CUDA driver": f"{major}.{minor}"}
        )

    @property
    def stream(self) -> int:
        """See `Device`."""
        return self._handle

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (self._driver.Error,)

    def _code(self, error: Exception) -> int | None:
        """Read it from the driver's own text, since pycuda's exceptions carry no code."""
        reason = str(error).partition(" failed: ")[2]
        return next((code for text, code in self._texts.items() if reason.startswith(text)), None)

    @contextmanager
    def _activated(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def _allocate(self, size: int) -> tuple[int, Callable[[], None]]:
        block = self._pool.allocate(size)
        return int(block), partial(_free, self._driver, self._context, block)

    def _copy_in(self, destination: int, source: NDArray[Any]) -> None:
        self._driver.memcpy_htod_async(destination, source, self._stream)

    def _copy_out(self, destination: NDArray[Any], source: int) -> None:
        self._driver.memcpy_dtoh_async(destination, source, self._stream)

    def _copy_across(self, destination: int, source: int, size: int) -> None:
        self._driver.memcpy_dtod_async(destination, source, size, self._stream)

    def _load(self, code: bytes) -> Any:
        return self._driver.module_from_buffer(code)

    def _function(self, library: Any, name: str) -> Any:
        return library.get_function(name)

    def _allow_shared(self, function: Any, size: int) -> None:
        attribute = self._driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
        function.set_attribute(attribute, size)

    def _launch(
        self,
        function: Any,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        shared: int,
    ) -> None:
        function(*arguments, grid=grid, block=(block, 1, 1), shared=shared, stream=self._stream)

    def _wait(self) -> None:
        self._stream.synchronize()

    def _begin_recording(self) -> None:
        raise DeviceError(
            "pycuda cannot record CUDA graphs, expected a package that can: open 'cuda.core'"
        )

    def _end_recording(self) -> Any:
        raise AssertionError("nothing is ever recorded")

    def _launch_graph(self, graph: Any) -> None:
        raise AssertionError("nothing is ever recorded")

    def _drop_stream(self) -> None:
        self._stream = self._pool = None  # blocks that are still used keep the pool


@cache
def _primary_context(index: int) -> Any:
    """Retain a GPU's primary context once per process, as the CUDA runtime does.

    It is never given back: pycuda leaves a released context current in the thread.
    """
    import pycuda.driver as driver

    return driver.Device(index).retain_primary_context()


def _free(driver: Any, context: Any, block: Any) -> None:
    """Return memory to the pool; pycuda aborts the process if no context is current then."""
    if driver.Context.get_current() == context:  # a dead context cannot be pushed once more
        block.free()
        return
    context.push()
    try:
        block.free()
    finally:
        context.pop()
