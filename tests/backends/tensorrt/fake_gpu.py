"""A GPU made of host memory, for whoever only allocates and copies."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import DeviceError, DeviceMemoryError
from klieg.kernels.device import Argument, Buffer, Kernel, Module

STREAM = 0x57AE

_active = threading.local()


def active() -> bool:
    """Return whether the context is that of the calling thread."""
    return getattr(_active, "depth", 0) > 0


def recording() -> list[Callable[[], None]] | None:
    """Return what the calling thread has recorded so far, None where things run at once."""
    kept: list[Callable[[], None]] | None = getattr(_active, "recording", None)
    return kept


@dataclass(frozen=True)
class Memory:
    pointer: int
    size: int
    owner: Any


class FakeGpu:
    """Fresh memory holds 0xFF bytes, NaN as float; `free` bytes are left.

    When `lost` is set every call fails. `graphs` counts the graphs that were launched.
    """

    records = True

    def __init__(
        self, name: str = "NVIDIA Test", architecture: tuple[int, int] = (9, 0), free: int = 2**24
    ) -> None:
        self.name, self.architecture, self.stream = name, architecture, STREAM
        self.index, self.label = 0, "cuda.core:0"
        self.versions: Mapping[str, str] = {"cuda driver": "13.0"}
        self.free = free
        self.synchronised = 0
        self.closed = self.lost = False
        self.graphs = 0

    @contextmanager
    def activated(self) -> Iterator[None]:
        if self.lost:
            raise DeviceError("this GPU is lost: start a new process")
        _active.depth = getattr(_active, "depth", 0) + 1
        try:
            yield
        finally:
            _active.depth -= 1

    def allocate(self, size: int) -> Memory:
        assert recording() is None
        if size > self.free:
            raise DeviceMemoryError(f"{size} bytes asked for, {self.free} left: smaller batches")
        memory = ctypes.create_string_buffer(b"\xff" * (size + 256), size + 256)
        return Memory((ctypes.addressof(memory) + 255) // 256 * 256, size, memory)

    def copy_in(self, source: NDArray[Any], destination: Buffer) -> None:
        assert recording() is None
        assert source.flags.c_contiguous
        assert source.nbytes <= destination.size
        ctypes.memmove(destination.pointer, source.ctypes.data, source.nbytes)

    def copy_out(self, source: Buffer, destination: NDArray[Any]) -> None:
        assert destination.nbytes <= source.size
        ctypes.memmove(destination.ctypes.data, source.pointer, destination.nbytes)

    def copy_across(self, source: Buffer, destination: Buffer) -> None:
        assert recording() is None
        assert source.size <= destination.size
        ctypes.memmove(destination.pointer, source.pointer, source.size)

    def synchronise(self) -> None:
        if self.lost:
            raise DeviceError("this GPU is lost: start a new process")
        self.synchronised += 1

    def close(self) -> None:
        self.closed = True

    def load(self, code: bytes) -> Module:
        raise AssertionError("TensorRT computes, and nothing else, in these tests")

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        *,
        shared: int = 0,
    ) -> None:
        raise AssertionError("TensorRT computes, and nothing else, in these tests")

    def gpu_of(self, pointer: int) -> int | None:
        raise AssertionError("TensorRT computes, and nothing else, in these tests")

    def wait_for(self, stream: int) -> None:
        raise AssertionError("TensorRT computes, and nothing else, in these tests")

    @contextmanager
    def capture(self) -> Iterator[FakeGraph]:
        _active.recording = kept = []
        try:
            yield FakeGraph(self, kept)
        finally:
            _active.recording = None


@dataclass(frozen=True)
class FakeGraph:
    gpu: FakeGpu
    recorded: list[Callable[[], None]]

    def launch(self) -> None:
        self.gpu.graphs += 1
        for work in self.recorded:
            work()


def view(pointer: int, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Look at memory of the fake GPU as an array."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_byte * count).from_address(pointer)
    return np.frombuffer(raw, dtype=dtype).reshape(shape)
