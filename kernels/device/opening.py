"""Choosing a device by name."""

from __future__ import annotations

from typing import Final

from klieg.errors import DeviceError, OptionError
from klieg.kernels.device import CudaDevice
from klieg.kernels.device.libcuda import Libcuda, LibcudaError

NAMES: Final = ("cuda.core", "pycuda")
OLDEST_CUDA: Final = (13, 0)
OLDEST_DRIVER: Final = 580


def open_device(name: str, *, index: int | None = None, stream: object | None = None) -> CudaDevice:
    """Open a GPU in its primary context, with a stream of its own or of somebody else.

    Args:
        name: "cuda.core" or "pycuda", with ":1" behind it for GPU 1.
        index: Number of the GPU, as the CUDA driver counts, in place of the one in `name`; None
            for that, or 0.
        stream: Handle of a CUDA stream, or an object with `__cuda_stream__`, that everything is
            enqueued on and that outlives the device; None for a new one.

    Raises:
        OptionError: there is no package of that name, or `index` or `stream` is impossible.
        DeviceError: the package, the driver or the GPU is missing, or the driver is too old.
    """
    package, _, number = name.partition(":")
    if package not in NAMES or (number and not number.isdecimal()):
        raise OptionError(
            f"unknown device {name!r}, expected {' or '.join(NAMES)}, with :1 behind it for GPU 1"
        )
    index = int(number or 0) if index is None else index
    if type(index) is not int or index < 0:
        raise OptionError(f"index is {index!r}, expected the number of a GPU, 0 for the first")
    libcuda = _driver(index)
    try:
        if package == "cuda.core":
            from klieg.kernels.device.cuda_core import CudaCoreDevice

            return CudaCoreDevice(index, stream, libcuda)
        from klieg.kernels.device.pycuda import PyCudaDevice

        return PyCudaDevice(index, stream, libcuda)
    except ImportError as error:
        extra = "cuda" if package == "cuda.core" else "pycuda"
        raise DeviceError(
            f"the package {package} cannot be imported ({error}): pip install 'klieg[{extra}]'"
        ) from error


def _driver(index: int) -> Libcuda:
    """Load the driver, before any package does: cuda.core 1.2 hangs where there is none."""
    try:
        libcuda = Libcuda()
        version, count = libcuda.cuda_version(), libcuda.count()
    except LibcudaError as error:
        raise DeviceError(
            f"the NVIDIA driver does not start ({error}): check nvidia-smi and that the GPU is "
            "visible to this process"
        ) from error
    if version < OLDEST_CUDA:
        raise DeviceError(
            f"the NVIDIA driver supports CUDA {version[0]}.{version[1]}, expected at least "
            f"{OLDEST_CUDA[0]}.{OLDEST_CUDA[1]}: install driver {OLDEST_DRIVER} or newer"
        )
    if index >= count:
        raise DeviceError(
            f"GPU {index} was asked for, but the driver finds {count}, counted from 0: choose "
            "another index, or check CUDA_VISIBLE_DEVICES"
        )
    return libcuda
