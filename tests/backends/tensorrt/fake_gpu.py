"""The CPU as the GPU that fake TensorRT computes on: it has a context, and it can be lost."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.cpu_device import CpuDevice, HostBuffer
from klieg.errors import DeviceError, DeviceMemoryError

STREAM = 0x57AE

_active = threading.local()


def active() -> bool:
    """Return whether the context is that of the calling thread."""
    return getattr(_active, "depth", 0) > 0


class FakeGpu(CpuDevice):
    """`free` is the largest allocation that there is room for. When `lost` every call fails."""

    label = "cuda.core:0"
    stream = STREAM
    versions: Mapping[str, str] = {"cuda driver": "13.0"}

    def __init__(
        self, name: str = "NVIDIA Test", architecture: tuple[int, int] = (9, 0), free: int = 2**24
    ) -> None:
        super().__init__(records=True)
        self.name, self.architecture, self.free = name, architecture, free
        self.synchronised = 0
        self.closed = self.lost = False

    @contextmanager
    def activated(self) -> Iterator[None]:
        if self.lost:
            raise DeviceError("this GPU is lost: start a new process")
        _active.depth = getattr(_active, "depth", 0) + 1
        try:
            yield
        finally:
            _active.depth -= 1

    def allocate(self, size: int) -> HostBuffer:
        if size > self.free:
            raise DeviceMemoryError(f"{size} bytes asked for, {self.free} left: smaller batches")
        return super().allocate(size)

    def synchronise(self) -> None:
        if self.lost:
            raise DeviceError("this GPU is lost: start a new process")
        self.synchronised += 1

    def close(self) -> None:
        self.closed = True


def view(pointer: int, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Look at memory of the fake GPU as an array."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_byte * count).from_address(pointer)
    return np.frombuffer(raw, dtype=dtype).reshape(shape)
