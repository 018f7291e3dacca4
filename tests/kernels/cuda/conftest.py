"""The device that the kernels are tested on: the CPU in a GPU's place, or a GPU.

Environment: KLIEG_KERNEL_DEVICE, such as cuda.core; unset for the CPU.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from helpers.cpu_device import CpuDevice, Launch
from klieg.kernels.cuda.kernels import Kernels


class PoisonedDevice:
    """A GPU whose fresh memory holds 0xFF bytes, as the CPU's in its place does."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.launches: list[Launch] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def allocate(self, size: int) -> Any:
        buffer = self.inner.allocate(size)
        self.inner.copy_in(np.full(size, 0xFF, dtype=np.uint8), buffer)
        return buffer

    def launch(
        self, kernel: Any, grid: Any, block: int, arguments: Any, *, shared: int = 0
    ) -> None:
        self.inner.launch(kernel, grid, block, arguments, shared=shared)
        self.inner.synchronise()  # a failure is that of this kernel
        self.launches.append(Launch(kernel.name, grid, shared))


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    """All kernels on the device that the environment names."""
    name = os.environ.get("KLIEG_KERNEL_DEVICE")
    if name is None:
        return Kernels(CpuDevice())
    from klieg.kernels.device.opening import open_device

    return Kernels(PoisonedDevice(open_device(name)))
