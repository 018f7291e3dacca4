"""The few questions to the CUDA driver that neither package answers in the same way."""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, Final

from klieg.errors import DeviceError

OUT_OF_MEMORY: Final = 2
STICKY: Final = frozenset(
    {
        4,  # the driver is shutting down
        100,  # no GPU any more
        214,  # uncorrectable ECC error
        220,  # uncorrectable NVLink error
        226,  # hardware error, contained
        700,  # illegal address
        702,  # launch timed out
        709,  # context destroyed
        710,  # assertion in a kernel
        714,  # hardware stack error
        715,  # illegal instruction
        716,  # misaligned address
        717,  # invalid address space
        718,  # invalid program counter
        719,  # launch failed
        721,  # tensor memory leaked
        806,  # multi-process service lost
        810,  # multi-process client terminated
        911,  # failure of an external device
        999,  # unknown, also a GPU that fell off the bus
    }
)
"""CUresult codes after which a context answers nothing but the same code."""

_INVALID_VALUE: Final = 1  # what the driver says about an address it has never seen
_HOST: Final = 1  # CU_MEMORYTYPE_HOST
_MEMORY_TYPE: Final = 2  # CU_POINTER_ATTRIBUTE_MEMORY_TYPE
_DEVICE_ORDINAL: Final = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_DISABLE_TIMING: Final = 2  # CU_EVENT_DISABLE_TIMING

_SIGNATURES: Final[dict[str, list[Any]]] = {
    "cuInit": [c_uint],
    "cuDriverGetVersion": [POINTER(c_int)],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetName": [c_char_p, c_int, c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDeviceTotalMem_v2": [POINTER(c_size_t), c_int],
    "cuGetErrorString": [c_int, POINTER(c_char_p)],
    "cuMemGetInfo_v2": [POINTER(c_size_t), POINTER(c_size_t)],
    "cuPointerGetAttribute": [c_void_p, c_int, c_uint64],
    "cuEventCreate": [POINTER(c_void_p), c_uint],
    "cuEventRecord": [c_void_p, c_void_p],
    "cuStreamWaitEvent": [c_void_p, c_void_p, c_uint],
    "cuEventDestroy_v2": [c_void_p],
}


class LibcudaError(Exception):
    """The driver refused a call."""

    def __init__(self, function: str, code: int, text: str) -> None:
        super().__init__(f"{function} failed: {text}")
        self.code = code


class Libcuda:
    """The CUDA driver, loaded and initialised."""

    def __init__(self) -> None:
        """Load the driver.

        Raises:
            DeviceError: there is no driver on this machine, or one that lacks a function.
            LibcudaError: it cannot be initialised, for example because there is no GPU.
        """
        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise DeviceError(
                f"there is no NVIDIA driver on this machine ({name} cannot be loaded), "
                "expected driver 580 or newer: install it, or use backend='onnxruntime'"
            ) from error
        for function, arguments in _SIGNATURES.items():
            try:
                getattr(self._library, function).argtypes = arguments
            except AttributeError as error:
                raise DeviceError(
                    f"the NVIDIA driver on this machine ({name}) has no {function}, expected "
                    "driver 580 or newer: update it, or use backend='onnxruntime'"
                ) from error
        self._call("cuInit", 0)

    def cuda_version(self) -> tuple[int, int]:
        """Return the newest CUDA that the driver supports, such as (13, 0)."""
        value = c_int()
        self._call("cuDriverGetVersion", byref(value))
        return value.value // 1000, value.value % 1000 // 10

    def count(self) -> int:
        """Return the number of GPUs."""
        value = c_int()
        self._call("cuDeviceGetCount", byref(value))
        return value.value

    def describe(self, index: int) -> tuple[str, tuple[int, int], int]:
        """Return the name, the compute capability and the bytes of memory of a GPU."""
        device, major, minor, size = c_int(), c_int(), c_int(), c_size_t()
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGet", byref(device), index)
        self._call("cuDeviceGetName", name, len(name), device)
        self._call("cuDeviceGetAttribute", byref(major), _MAJOR, device)
        self._call("cuDeviceGetAttribute", byref(minor), _MINOR, device)
        self._call("cuDeviceTotalMem_v2", byref(size), device)
        return name.value.decode(), (major.value, minor.value), size.value

    def error_text(self, code: int) -> str:
        """Return what the driver says about a CUresult code."""
        text = c_char_p()
        if self._library.cuGetErrorString(code, byref(text)) or text.value is None:
            return f"CUresult {code}"
        return text.value.decode()

    def free_memory(self) -> int:
        """Return the free bytes of the current context's GPU."""
        free, total = c_size_t(), c_size_t()
        self._call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def is_pinned(self, address: int) -> bool:
        """Return whether an address lies in page-locked host memory."""
        return self._attribute(_MEMORY_TYPE, address) == _HOST

    def gpu_of(self, address: int) -> int | None:
        """Return the number of the GPU whose memory an address lies in, None for host memory."""
        if self._attribute(_MEMORY_TYPE, address) in (None, _HOST):
            return None
        return self._attribute(_DEVICE_ORDINAL, address)

    def wait(self, stream: int, producer: int) -> None:
        """Let what is enqueued on `stream` from now on wait for what `producer` holds now."""
        event = c_void_p()
        self._call("cuEventCreate", byref(event), _DISABLE_TIMING)
        try:
            self._call("cuEventRecord", event, producer)
            self._call("cuStreamWaitEvent", stream, event, 0)
        finally:
            self._call("cuEventDestroy_v2", event)  # it lives until the stream has passed it

    def _attribute(self, attribute: int, address: int) -> int | None:
        value = c_int()
        code = self._library.cuPointerGetAttribute(byref(value), attribute, address)
        if code == _INVALID_VALUE:
            return None
        self._check("cuPointerGetAttribute", code)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        self._check(function, getattr(self._library, function)(*arguments))

    def _check(self, function: str, code: int) -> None:
        if code:
            raise LibcudaError(function, code, self.error_text(code))
