"""Arrays of other libraries on the GPU, taken over without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from klieg.errors import ImageError, OptionError
from klieg.kernels.device import CudaDevice
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.memory import DeviceBuffer

CUDA: Final = 2  # kDLCUDA
MANAGED: Final = 13  # kDLCUDAManaged


def is_on_device(value: object) -> bool:
    """Return whether a value is an array in the memory of a CUDA GPU."""
    if hasattr(value, "__cuda_array_interface__"):
        return True
    return hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] in (CUDA, MANAGED)


def as_device_array(value: Any, *, device: CudaDevice, dtypes: Sequence[str]) -> DeviceArray:
    """Take over an array that lies on the GPU; `device` waits for whoever writes it.

    Args:
        value: A `DeviceArray`, or anything with `__cuda_array_interface__` or `__dlpack__`:
            PyTorch, CuPy, JAX, Numba, pycuda.
        device: Where it will be used.
        dtypes: Names of the types that can be used, such as ("float32", "uint8").

    Returns:
        The same memory: it must not be written to before the device has read it.

    Raises:
        ImageError: it lies in host memory or on another GPU, is not C-contiguous, or of another
            type.
        OptionError: it follows neither protocol.
    """
    if isinstance(value, DeviceArray) and not _is_of_another(value, device):
        array = value
    elif hasattr(value, "__cuda_array_interface__"):
        array = _from_cuda_array_interface(value, device)
    elif hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        array = _from_dlpack(value, device)
    else:
        raise OptionError(
            f"got a {type(value).__name__}, expected an array on the GPU with "
            "__cuda_array_interface__ or __dlpack__: pass a NumPy array instead"
        )
    if array.dtype.name not in dtypes or not array.dtype.isnative:
        raise ImageError(
            f"the array on the GPU is {array.dtype.str} ({array.dtype.name}), expected "
            f"{' or '.join(dtypes)}: convert it before"
        )
    return array


def _is_of_another(array: DeviceArray, device: CudaDevice) -> bool:
    if not isinstance(array.owner, DeviceBuffer):
        return False
    home = array.owner.home
    return (home.index, home.stream) != (device.index, device.stream)


def _from_cuda_array_interface(value: Any, device: CudaDevice) -> DeviceArray:
    interface = value.__cuda_array_interface__
    version = interface["version"]
    if version < 2 or interface.get("mask") is not None:
        raise OptionError(
            f"__cuda_array_interface__ has version {version}"
            f"{' and a mask' if interface.get('mask') is not None else ''}, expected version 2 or "
            "3 without a mask: use a newer release of that library"
        )
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides")
    pointer = interface["data"][0]
    if strides is not None:
        _check_contiguous(shape, tuple(stride / dtype.itemsize for stride in strides))
    if 0 not in shape:  # an empty array may have no address
        _check_gpu(device.gpu_of(pointer), device)
    stream = interface.get("stream")
    if stream == 0:
        raise OptionError(
            "__cuda_array_interface__ names stream 0, which the protocol forbids as ambiguous, "
            "expected None, 1, 2 or a handle: use a newer release of that library"
        )
    if stream is not None:
        device.wait_for(stream)
    return DeviceArray(pointer, shape, dtype, value)


def _from_dlpack(value: Any, device: CudaDevice) -> DeviceArray:
    kind, index = value.__dlpack_device__()
    _check_gpu(index if kind in (CUDA, MANAGED) else None, device)
    try:
        from cuda.core.utils import StridedMemoryView
    except ImportError as error:
        raise OptionError(
            f"a {type(value).__name__} is shared by DLPack, which needs cuda.core: "
            "pip install 'klieg[cuda]'"
        ) from error
    # The producer is told our stream, and makes it wait for its own.
    view = StridedMemoryView.from_dlpack(value, stream_ptr=device.stream)
    shape = tuple(view.shape)
    if view.strides is not None:
        _check_contiguous(shape, tuple(view.strides))
    dtype = view.dtype
    assert dtype is not None
    return DeviceArray(view.ptr, shape, np.dtype(dtype), view)


def _check_contiguous(shape: tuple[int, ...], strides: tuple[float, ...]) -> None:
    """Compare strides in elements; axes of length 1 are never stepped along."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected and 0 not in shape:
            raise ImageError(
                f"the array {shape} on the GPU has strides {strides} in elements, expected a "
                "C-contiguous one: call .contiguous() or ascontiguousarray before"
            )
        expected *= size


def _check_gpu(found: int | None, device: CudaDevice) -> None:
    if found != device.index:
        where = "in host memory" if found is None else f"on GPU {found}"
        raise ImageError(
            f"the array lies {where}, expected GPU {device.index}: move it there, or pass a NumPy "
            "array"
        )
