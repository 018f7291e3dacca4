"""What all CUDA devices do alike: check arguments, keep order, and stop after a fatal failure."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

from numpy.typing import NDArray

from klieg.errors import DeviceError, DeviceMemoryError, KliegError
from klieg.kernels.device import Argument, Buffer, Kernel
from klieg.kernels.device.checks import check_array, check_launch, check_room, check_size
from klieg.kernels.device.libcuda import OUT_OF_MEMORY, STICKY, Libcuda, LibcudaError
from klieg.kernels.device.memory import DeviceBuffer, DeviceModule, check_home, own_kernel
from klieg.kernels.device.recording import Recording


class GuardedDevice(ABC):
    """A GPU behind a lock. Packages fill in the methods that begin with an underscore."""

    kernel_code: Final = None

    def __init__(self, package: str, index: int, libcuda: Libcuda) -> None:
        self.label: Final = f"{package}:{index}"
        self.index: Final = index
        self._libcuda: Final = libcuda
        self._pid: Final = os.getpid()
        self._lock: Final = threading.RLock()
        self._end: str | None = None  # why it cannot be used any more
        self._recording: Recording | None = None
        self._buffers: weakref.WeakSet[DeviceBuffer] = weakref.WeakSet()
        self._modules: list[DeviceModule] = []

    @property
    @abstractmethod
    def stream(self) -> int:
        """See `Device`."""

    @property
    def usable(self) -> bool:
        """Whether it is neither closed nor failed."""
        return self._end is None

    @contextmanager
    def activated(self) -> Iterator[None]:
        """See `CudaDevice`."""
        with self._calling("activating the context"):
            yield

    def allocate(self, size: int) -> DeviceBuffer:
        """See `Device`."""
        check_size(size)
        with self._calling(f"allocating {size:,} bytes", recordable=False):
            pointer, free = self._allocate(size)
            buffer = DeviceBuffer(self, pointer, size, free)
            self._buffers.add(buffer)
            return buffer

    def copy_in(self, source: NDArray[Any], destination: Buffer) -> None:
        """See `Device`."""
        check_array(source, destination.size, writable=False)
        check_home(destination, self, "destination")
        with self._calling(f"copying {source.nbytes:,} bytes to the GPU", recordable=False):
            if source.nbytes == 0:
                return
            self._copy_in(destination.pointer, source)
            if self._libcuda.is_pinned(source.ctypes.data):
                self._wait()  # pageable memory is staged by the driver before it returns

    def copy_out(self, source: Buffer, destination: NDArray[Any]) -> None:
        """See `Device`."""
        check_array(destination, source.size, writable=True)
        check_home(source, self, "source")
        with self._calling(f"copying {destination.nbytes:,} bytes from the GPU", recordable=False):
            if destination.nbytes:
                self._copy_out(destination, source.pointer)
            self._wait()

    def copy_across(self, source: Buffer, destination: Buffer) -> None:
        """See `Device`."""
        check_room(source.size, destination.size)
        check_home(source, self, "source")
        check_home(destination, self, "destination")
        with self._calling(f"copying {source.size:,} bytes on the GPU", recordable=False):
            if source.size:
                self._copy_across(destination.pointer, source.pointer, source.size)

    def load(self, code: bytes) -> DeviceModule:
        """See `Device`."""
        with self._calling(f"loading {len(code):,} bytes of code", recordable=False):
            module = DeviceModule(self, self._load(code))
            self._modules.append(module)
            return module

    def function(self, module: DeviceModule, name: str) -> Any:
        """Return the package's handle of a function, for `DeviceModule`."""
        with self._calling(f"looking for kernel {name!r}"):
            return self._function(module.library, name)

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        *,
        shared: int = 0,
    ) -> None:
        """See `Device`."""
        own = own_kernel(kernel, self)
        check_launch(own.name, grid, block, arguments, shared)
        with self._calling(f"launching {own.name}"):
            if shared > own.shared:
                self._allow_shared(own.function, shared)
                own.shared = shared
            self._launch(own.function, grid, block, arguments, shared)
            if self._recording is not None:
                self._recording.note(arguments)

    def synchronise(self) -> None:
        """See `Device`."""
        with self._calling("waiting for the stream", recordable=False):
            self._wait()

    def gpu_of(self, pointer: int) -> int | None:
        """See `CudaDevice`."""
        with self._calling("asking where an address lies"):
            return self._libcuda.gpu_of(pointer)

    def wait_for(self, stream: int) -> None:
        """See `CudaDevice`."""
        if stream != self.stream:
            with self._calling("waiting for another stream", recordable=False):
                self._libcuda.wait(self.stream, stream)

    @contextmanager
    def capture(self) -> Iterator[Recording]:
        """See `CudaDevice`."""
        with self._lock:  # other threads wait: what they enqueue must not be recorded
            with self._calling("beginning to record", recordable=False):
                self._begin_recording()
                recording = self._recording = Recording(list(self._buffers), self._replay)
            try:
                yield recording
            finally:
                try:
                    if self.usable:
                        with self._calling("finishing a recording"):
                            recording.finish(self._end_recording())
                finally:
                    self._recording = None

    def close(self) -> None:
        """See `Device`. Buffers stay until nothing refers to them."""
        if not self.usable:
            return
        with self._calling("closing the device"):
            self._wait()
            self._drop(f"device {self.label} is closed: open it again")

    def _replay(self, graph: Any) -> None:
        with self._calling("launching a graph", recordable=False):
            self._launch_graph(graph)

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Translate what the package raises before there is a context."""
        try:
            yield
        except self._refusals as error:
            raise DeviceError(
                f"device {self.label} cannot be opened ({error}): free the GPU of other programs, "
                "or choose another index"
            ) from error

    @contextmanager
    def _calling(self, action: str, *, recordable: bool = True) -> Iterator[None]:
        """Hold the lock and the context around calls, and translate what they raise."""
        if os.getpid() != self._pid:
            raise DeviceError(
                f"device {self.label} was opened in process {self._pid}, but this is process "
                f"{os.getpid()}: CUDA does not survive a fork, start processes with 'spawn' and "
                "open the device in each"
            )
        with self._lock:
            if self._end is not None:
                raise DeviceError(self._end)
            if self._recording is not None and not recordable:
                raise DeviceError(
                    f"device {self.label} is recording, and {action} cannot be recorded, only "
                    "launches: do it before or after"
                )
            try:
                with self._activated():
                    try:
                        yield
                    except self._refusals as error:
                        raise self._translated(action, error) from error
            except self._refusals as error:  # the context itself can no longer be activated
                raise self._translated(action, error) from error

    def _translated(self, action: str, error: Exception) -> KliegError:
        """Turn a failure of the package into an error of klieg, and stop after a fatal one."""
        code = error.code if isinstance(error, LibcudaError) else self._code(error)
        if code == OUT_OF_MEMORY:
            return DeviceMemoryError(
                f"device {self.label}: the memory of the GPU is full while {action}, "
                f"{self._libcuda.free_memory():,} bytes are free: use smaller batches, or free "
                "memory of other programs"
            )
        reason = str(error) if code is None else f"{self._libcuda.error_text(code)} ({code})"
        failure = f"device {self.label}: {action} failed: {reason}"
        if code in STICKY and self._end is None:
            self._drop(
                f"device {self.label} cannot be used any more since an earlier failure "
                f"({failure}): start a new process"
            )
            self._drop_buffers()
            return DeviceError(f"{failure}: the GPU refuses all further work of this process")
        return DeviceError(self._end or f"{failure}: the device itself can still be used")

    def _drop(self, end: str) -> None:
        """Let go of everything on the GPU; `end` is what later calls are told."""
        self._end = end
        for module in self._modules:
            module.unload()
        self._modules.clear()
        self._drop_stream()

    def _drop_buffers(self) -> None:
        for buffer in list(self._buffers):
            with suppress(*self._errors):  # the context is dead: nothing can be freed in it
                buffer.release()

    @property
    def _refusals(self) -> tuple[type[Exception], ...]:
        return (*self._errors, LibcudaError)

    @property
    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """What the package raises when the driver refuses a call."""

    @abstractmethod
    def _code(self, error: Exception) -> int | None:
        """Return the CUresult behind an exception of the package, None if it tells none."""

    @abstractmethod
    def _activated(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    def _allocate(self, size: int) -> tuple[int, Callable[[], None]]: ...

    @abstractmethod
    def _copy_in(self, destination: int, source: NDArray[Any]) -> None: ...

    @abstractmethod
    def _copy_out(self, destination: NDArray[Any], source: int) -> None: ...

    @abstractmethod
    def _copy_across(self, destination: int, source: int, size: int) -> None: ...

    @abstractmethod
    def _load(self, code: bytes) -> Any: ...

    @abstractmethod
    def _function(self, library: Any, name: str) -> Any: ...

    @abstractmethod
    def _allow_shared(self, function: Any, size: int) -> None: ...

    @abstractmethod
    def _launch(
        self,
        function: Any,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        shared: int,
    ) -> None: ...

    @abstractmethod
    def _wait(self) -> None: ...

    @abstractmethod
    def _begin_recording(self) -> None: ...

    @abstractmethod
    def _end_recording(self) -> Any: ...

    @abstractmethod
    def _launch_graph(self, graph: Any) -> None: ...

    @abstractmethod
    def _drop_stream(self) -> None: ...
