"""Arrays on the device: where they lie and what their axes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from klieg.errors import InputError
from klieg.kernels.device import Device, Workspace


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
    def empty(cls, workspace: Workspace, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """Allocate an array with undefined content."""
        kind = np.dtype(dtype)
        buffer = workspace.allocate(max(1, prod(shape) * kind.itemsize))
        return cls(buffer.pointer, shape, kind, buffer)

    @classmethod
    def of(cls, workspace: Workspace, array: NDArray[Any] | DeviceArray) -> DeviceArray:
        """Copy an array to new memory on the device."""
        copy = cls.empty(workspace, array.shape, array.dtype)
        copy.fill(workspace, array)
        return copy

    @classmethod
    def on(cls, workspace: Workspace, array: NDArray[Any] | DeviceArray) -> DeviceArray:
        """Return an array that lies on the device as it is, and copy one that does not."""
        return array if isinstance(array, DeviceArray) else cls.of(workspace, array)

    def fill(self, workspace: Workspace, array: NDArray[Any] | DeviceArray) -> None:
        """Overwrite this array with one of the same shape and type."""
        if isinstance(array, DeviceArray):
            workspace.copy_across(array, self)
        else:
            workspace.copy_in(np.ascontiguousarray(array), self)

    def __len__(self) -> int:
        """Return the number of rows along the first axis."""
        return self.shape[0]

    def rows(self, start: int, count: int) -> DeviceArray:
        """Return `count` rows along the first axis, from number `start` on, in the same memory.

        Raises:
            InputError: there are not that many.
        """
        if not 0 <= start <= start + count <= self.shape[0]:
            raise InputError(
                f"rows {start} to {start + count} were asked for, but the array on the GPU is "
                f"{list(self.shape)}: ask for rows within its first axis"
            )
        step = prod(self.shape[1:]) * self.dtype.itemsize
        pointer = self.pointer + start * step
        return DeviceArray(pointer, (count, *self.shape[1:]), self.dtype, self.owner)

    def gathered(self, device: Device, numbers: Sequence[int]) -> DeviceArray:
        """Copy rows along the first axis by their numbers, one by one, into a new array.

        Returns:
            [len(numbers), ...], in the order of the numbers, which may repeat.

        Raises:
            InputError: there is no row of such a number.
        """
        found = DeviceArray.empty(device, (len(numbers), *self.shape[1:]), self.dtype)
        for place, number in enumerate(numbers):
            found.rows(place, 1).fill(device, self.rows(number, 1))
        return found

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
