"""What a machine has of GPUs and drivers, found without any Python package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klieg.errors import DeviceError
from klieg.kernels.device.libcuda import Libcuda, LibcudaError

KERNEL_MODULE: Final = Path("/sys/module/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver describes it."""

    index: int
    name: str
    architecture: tuple[int, int]  # compute capability, such as (9, 0)
    memory: int  # bytes


@dataclass(frozen=True)
class Inventory:
    """What was found; `reason` says why there are no GPUs, and is None if there are."""

    gpus: tuple[Gpu, ...]
    driver: str | None  # such as "580.82.07", None where only CUDA's version is known
    cuda: tuple[int, int] | None  # the newest CUDA that the driver supports
    reason: str | None


def take_inventory() -> Inventory:
    """Ask the driver. Never raises: what is missing is a finding."""
    driver = KERNEL_MODULE.read_text().strip() if KERNEL_MODULE.exists() else None
    try:
        libcuda = Libcuda()
        cuda = libcuda.cuda_version()
        gpus = tuple(Gpu(index, *libcuda.describe(index)) for index in range(libcuda.count()))
    except (DeviceError, LibcudaError) as error:
        return Inventory((), driver, None, str(error))
    return Inventory(gpus, driver, cuda, None if gpus else "the driver finds no GPU")
