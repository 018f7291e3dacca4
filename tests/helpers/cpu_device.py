"""A CUDA device made of the CPU: runs the kernels' own sources, compiled by g++.

The one GPU of the tests that computes; what drives a real one is tried against a recorded driver.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.cpu_build import KERNELS, build, entry_points
from klieg.errors import DeviceError, DeviceMemoryError
from klieg.kernels.device import Argument, Buffer, Kernel

SHARED_MEMORY = 227 * 1024  # bytes, the most a block may have on architecture 9.0
LETTERS = {np.uint64: "p", np.int32: "i", np.float32: "f"}

_thread = threading.local()
_libc = ctypes.CDLL(None)
_libc.free.argtypes = [ctypes.c_void_p]
_libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]


@dataclass(frozen=True)
class Launch:
    """What a kernel was launched with."""

    name: str
    grid: tuple[int, int, int]
    shared: int


def recording() -> list[Callable[[], None]] | None:
    """Return what the calling thread has recorded so far, None where things run at once."""
    kept: list[Callable[[], None]] | None = getattr(_thread, "recording", None)
    return kept


class CpuDevice:
    """Host memory, and kernels that have run when `launch` returns, unless they are recorded.

    Fresh memory holds 0xFF bytes, NaN as float, so that nothing passes that reads what was not
    written. `held` counts bytes, of which there are at most `limit`. `launches` lists what ran,
    `graphs` counts the graphs that were launched.
    """

    name = "the CPU in a GPU's place"
    label = "cpu"
    index = 0
    architecture = (9, 0)
    stream = 0
    versions: Mapping[str, str] = {"shim": "1"}
    kernel_code = b"the sources themselves"

    def __init__(self, sources: Sequence[Path] | None = None, *, records: bool = False) -> None:
        """Use these .cu files instead of the package's, and record graphs if asked to."""
        self.records = records
        self.graphs, self.held, self.limit = 0, 0, 10**9
        self._sources = sorted(KERNELS.glob("*.cu")) if sources is None else list(sources)
        self.launches: list[Launch] = []

    def allocate(self, size: int) -> HostBuffer:
        assert recording() is None
        if self.held + size > self.limit:
            raise DeviceMemoryError(f"{size} bytes asked for, {self.limit - self.held} are left")
        buffer = HostBuffer(size)
        self.held += size
        weakref.finalize(buffer, self._free, size)
        return buffer

    def _free(self, size: int) -> None:
        self.held -= size

    def copy_in(self, source: NDArray[Any], destination: Buffer) -> None:
        assert recording() is None
        assert source.flags.c_contiguous
        assert source.nbytes <= destination.size
        ctypes.memmove(destination.pointer, source.ctypes.data, source.nbytes)

    def copy_out(self, source: Buffer, destination: NDArray[Any]) -> None:
        assert destination.flags.c_contiguous
        assert destination.nbytes <= source.size
        ctypes.memmove(destination.ctypes.data, source.pointer, destination.nbytes)

    def copy_across(self, source: Buffer, destination: Buffer) -> None:
        assert recording() is None
        assert source.size <= destination.size
        ctypes.memmove(destination.pointer, source.pointer, source.size)

    def load(self, code: bytes) -> ShimModule:
        if code != self.kernel_code:
            raise DeviceError(f"{len(code)} bytes of GPU code, but this device runs sources only")
        return ShimModule(self._sources)

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        *,
        shared: int = 0,
    ) -> None:
        assert isinstance(kernel, ShimKernel)
        if not (0 < grid[0] < 2**31 and 0 < grid[1] < 2**16 and 0 < grid[2] < 2**16):
            raise DeviceError(f"{kernel.name}: grid {grid}, expected 1..2^31-1, 1..65535, 1..65535")
        if not 0 <= shared <= SHARED_MEMORY:
            raise DeviceError(f"{kernel.name}: {shared} bytes shared, at most {SHARED_MEMORY}")
        if (kept := recording()) is not None:
            kept.append(partial(self.launch, kernel, grid, block, arguments, shared=shared))
            return
        kernel(grid, block, shared, arguments)
        self.launches.append(Launch(kernel.name, grid, shared))

    def synchronise(self) -> None:
        pass

    def gpu_of(self, pointer: int) -> int | None:
        return self.index

    def wait_for(self, stream: int) -> None:
        pass

    def activated(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def capture(self) -> Iterator[CpuGraph]:
        if not self.records:
            raise DeviceError("this device records no graphs")
        _thread.recording = kept = []
        try:
            yield CpuGraph(self, kept)
        finally:
            _thread.recording = None

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class CpuGraph:
    """Launches that were recorded."""

    device: CpuDevice
    recorded: list[Callable[[], None]]

    def launch(self) -> None:
        self.device.graphs += 1
        for work in self.recorded:
            work()


class HostBuffer:
    """Memory of the C library, so that AddressSanitizer watches its ends."""

    def __init__(self, size: int) -> None:
        pointer = ctypes.c_void_p()
        if _libc.posix_memalign(ctypes.byref(pointer), 256, size) or pointer.value is None:
            raise DeviceMemoryError(f"no {size} bytes of host memory")
        self.pointer: int = pointer.value
        self.size = size
        ctypes.memset(pointer, 0xFF, size)
        weakref.finalize(self, _libc.free, self.pointer)


class ShimModule:
    """Compiles the source that holds a kernel when that kernel is first asked for."""

    def __init__(self, sources: Sequence[Path]) -> None:
        self._sources = sources

    def kernel(self, name: str) -> ShimKernel:
        for source in self._sources:
            if name in entry_points(source):
                return ShimKernel(name, ctypes.PyDLL(str(build(source))))
        names = [source.name for source in self._sources]
        raise DeviceError(f"no kernel {name!r} in {names}")


class ShimKernel:
    """One kernel. It holds the interpreter's lock while it runs: its state is global."""

    def __init__(self, name: str, library: ctypes.PyDLL) -> None:
        self.name = name
        signature = library[f"signature_{name}"]
        signature.restype = ctypes.c_char_p
        self.signature: str = signature().decode()
        """One letter per argument: p for a pointer, i for int, f for float."""
        self._launch = library[f"launch_{name}"]
        self._launch.restype = ctypes.c_char_p
        self._launch.argtypes = [
            ctypes.c_uint * 3,
            ctypes.c_uint,
            ctypes.c_size_t,
            ctypes.c_void_p * len(self.signature),
        ]

    def __call__(
        self, grid: tuple[int, int, int], block: int, shared: int, arguments: Sequence[Argument]
    ) -> None:
        given = "".join(LETTERS.get(type(argument), "?") for argument in arguments)
        if given != self.signature:
            raise DeviceError(
                f"{self.name} takes arguments {self.signature!r}, got {given!r} "
                "(p pointer, i int, f float)"
            )
        values = [np.array(argument) for argument in arguments]  # alive during the call
        addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        failure = self._launch((ctypes.c_uint * 3)(*grid), block, shared, addresses)
        if failure:
            raise DeviceError(f"{self.name}: {failure.decode()}")
