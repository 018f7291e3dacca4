"""The package's kernels on one device, launched by name with arrays and numbers."""

from __future__ import annotations

from copy import copy
from typing import Final

import numpy as np

from klieg.errors import DeviceError
from klieg.kernels.cuda.sources import fatbin_path
from klieg.kernels.device import Argument, Device, Kernel, Workspace
from klieg.kernels.device.array import DeviceArray

THREADS: Final = 256
"""Threads per block, of most kernels."""


class Kernels:
    """All kernels, loaded on a device."""

    def __init__(self, device: Device, *, code: bytes | None = None) -> None:
        """Load the kernels.

        Args:
            device: Where they run.
            code: A fatbin, cubin or PTX with all of them. None takes the device's own (see
                `Device`), else the package's fatbin if it was built, else compiles the sources for
                the device's architecture.

        Raises:
            DeviceError: the code does not suit the device, or there is none and it cannot be
                compiled here.
        """
        self.device: Final = device
        self.workspace: Workspace = device
        """Where results and everything in between are allocated."""
        self._module = device.load(kernel_code(device) if code is None else code)
        self._kernels: dict[str, Kernel] = {}

    def within(self, workspace: Workspace) -> Kernels:
        """Return the same kernels with another workspace on the device."""
        kernels = copy(self)
        kernels.workspace = workspace
        return kernels

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        *arguments: DeviceArray | Argument | int | float,
        threads: int = THREADS,
        shared: int = 0,
    ) -> None:
        """Enqueue a kernel; does not wait.

        Args:
            name: Its entry point.
            grid: Number of blocks in x, y and z.
            arguments: In the kernel's order: arrays as pointers, whole numbers, numbers.
            threads: Per block.
            shared: Bytes of dynamic shared memory per block.

        Raises:
            DeviceError: there is no such kernel, a whole number does not fit, or the launch failed.
        """
        if name not in self._kernels:
            self._kernels[name] = self._module.kernel(name)
        self.device.launch(
            self._kernels[name],
            grid,
            threads,
            [_argument(name, argument) for argument in arguments],
            shared=shared,
        )


def kernel_code(device: Device) -> bytes:
    """Return the kernels compiled for a device.

    Raises:
        DeviceError: they are not, and cannot be compiled here.
    """
    if device.kernel_code is not None:
        return device.kernel_code
    fatbin = fatbin_path()
    if fatbin.is_file():
        return fatbin.read_bytes()
    from klieg.kernels.cuda.run_time import compiled

    return compiled(device.architecture)


def _argument(name: str, value: DeviceArray | Argument | int | float) -> Argument:
    if isinstance(value, DeviceArray):
        return np.uint64(value.pointer)
    if isinstance(value, (np.uint64, np.int32, np.float32)):
        return value
    if isinstance(value, int):
        if not -(2**31) <= value < 2**31:
            raise DeviceError(
                f"{name} got {value}, expected a whole number of 32 bits: "
                "compute smaller batches or smaller images"
            )
        return np.int32(value)
    return np.float32(value)
