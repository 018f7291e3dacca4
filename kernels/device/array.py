"""Arrays on the device: where they lie and what their axes are."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from klieg.kernels.device import Device


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array on a device.

    `owner` is whatever keeps the memory alive: a buffer, an engine's output, an array of another
    library. If it has a `stream`, readers in other libraries are told to wait for that stream.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any

    @classmethod
    def empty(cls, device: Device, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate an array with undefined content."""
        kind = np.dtype(dtype)
        buffer = device.allocate(max(1, prod(shape) * kind.itemsize))
        return cls(buffer.pointer, shape, kind, buffer)

    @classmethod
    def of(cls, device: Device, array: NDArray[Any]) -> DeviceArray:
        """Copy an array to the device."""
        contiguous = np.ascontiguousarray(array)
        copy = cls.empty(device, array.shape, array.dtype)
        device.copy_in(contiguous, copy.owner)
        return copy

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def to_host(self, device: Device) -> NDArray[Any]:
        """Wait for the device and return a copy."""
        array = np.empty(self.shape, self.dtype)
        device.copy_out(self, array)
        return array

    @property
    def stream(self) -> int | None:
        """Handle of the stream that writes the memory; None if nothing has to be waited for."""
        stream: int | None = getattr(self.owner, "stream", None)
        return stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What CuPy, torch, Numba and others read to share the memory."""
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream,
        }
