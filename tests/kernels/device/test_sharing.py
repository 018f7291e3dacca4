"""Arrays of other libraries: taken over without a copy, or refused with a reason."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from klieg.errors import ImageError, OptionError
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.opening import open_device
from klieg.kernels.device.sharing import as_device_array, is_on_device

POINTER = 0x7EEE_0000
DTYPES = ("float32", "uint8")


class Cai:
    """An array with the CUDA array interface."""

    def __init__(self, **changes: Any) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": (2, 3),
            "typestr": "<f4",
            "data": (POINTER, False),
            "strides": None,
        } | changes


class Dlpack:
    """NumPy's own capsule behind a claim to lie elsewhere."""

    def __init__(self, array: np.ndarray, place: tuple[int, int] = (2, 0)) -> None:
        self.array, self.place = array, place
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.place

    def __dlpack__(self, *, stream: int | None = None, max_version: Any = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__(max_version=max_version)


@pytest.fixture
def gpu(driver, device):
    driver.locations[POINTER] = 0
    return device


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"version": 2},
        {"strides": (12, 4)},
        {"shape": (1, 2, 3), "strides": (999, 12, 4)},
        {"typestr": "|u1"},
    ],
)
def test_the_cuda_array_interface_is_taken_over(driver, gpu, changes):
    value = Cai(**changes)
    array = as_device_array(value, device=gpu, dtypes=DTYPES)
    assert (array.pointer, array.owner) == (POINTER, value)
    assert array.shape == changes.get("shape", (2, 3))
    assert driver.names() == []  # neither a copy nor a wait


@pytest.mark.parametrize("stream", [1, 2, 0x77])
def test_the_stream_of_the_producer_is_waited_for(driver, gpu, stream):
    as_device_array(Cai(stream=stream), device=gpu, dtypes=DTYPES)
    assert ("wait", gpu.stream, stream) in driver.record


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"strides": (4, 8)}, ImageError, "expected a C-contiguous"),
        ({"strides": (24, 8)}, ImageError, "expected a C-contiguous"),
        ({"typestr": "<f8"}, ImageError, "float64.*expected float32 or uint8"),
        ({"typestr": ">f4"}, ImageError, ">f4"),
        ({"data": (0x9999, False)}, ImageError, "in host memory, expected GPU 0"),
        ({"stream": 0}, OptionError, "stream 0"),
        ({"version": 1}, OptionError, "version 1"),
        ({"mask": object()}, OptionError, "a mask"),
    ],
)
def test_what_cannot_be_taken_over(driver, gpu, changes, error, said):
    with pytest.raises(error, match=said):
        as_device_array(Cai(**changes), device=gpu, dtypes=DTYPES)
    assert driver.names() == []


def test_memory_of_another_gpu_is_refused(driver, gpu):
    driver.locations[POINTER] = 1
    with pytest.raises(ImageError, match="on GPU 1, expected GPU 0"):
        as_device_array(Cai(), device=gpu, dtypes=DTYPES)


def test_own_arrays_pass_and_those_of_a_second_device_are_waited_for(driver, package, gpu):
    own = DeviceArray.of(gpu, np.zeros(4, np.float32))
    assert as_device_array(own, device=gpu, dtypes=DTYPES) is own
    other = open_device(package)
    foreign = DeviceArray.of(other, np.zeros(4, np.float32))
    driver.locations[foreign.pointer] = 0
    taken = as_device_array(foreign, device=gpu, dtypes=DTYPES)
    assert (taken.pointer, taken.owner) == (foreign.pointer, foreign)
    assert ("wait", gpu.stream, other.stream) in driver.record
    other.close()  # waits, so that there is nothing left to wait for
    assert foreign.__cuda_array_interface__["stream"] is None


def test_what_other_libraries_are_told(driver, gpu):
    own = DeviceArray.of(gpu, np.zeros((2, 3), np.float32))
    assert own.__cuda_array_interface__ == {
        "version": 3,
        "shape": (2, 3),
        "typestr": "<f4",
        "data": (own.pointer, False),
        "strides": None,
        "stream": gpu.stream,
    }
    of_nobody = DeviceArray(POINTER, (2, 3), own.dtype, owner=object())
    assert of_nobody.__cuda_array_interface__["stream"] is None


def test_host_memory_is_refused(gpu):
    with pytest.raises(ImageError, match="in host memory, expected GPU 0"):
        as_device_array(np.zeros(4, np.float32), device=gpu, dtypes=DTYPES)
    with pytest.raises(OptionError, match="got a list"):
        as_device_array([1.0], device=gpu, dtypes=DTYPES)
    with pytest.raises(ImageError, match="on GPU 1, expected GPU 0"):
        as_device_array(Dlpack(np.zeros(4), (2, 1)), device=gpu, dtypes=DTYPES)


def test_is_on_device():
    assert is_on_device(Cai())
    assert is_on_device(Dlpack(np.zeros(1)))
    assert is_on_device(Dlpack(np.zeros(1), (13, 0)))
    assert not is_on_device(np.zeros(1))
    assert not is_on_device([1.0])


@pytest.fixture
def plain() -> Any:
    """As much of a device as DLPack needs; the reader is the real one of cuda.core."""
    pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    return SimpleNamespace(index=0, stream=0x55)


def test_dlpack_is_taken_over_and_told_the_stream(plain):
    value = Dlpack(np.arange(6, dtype=np.float32).reshape(2, 3))
    array = as_device_array(value, device=plain, dtypes=DTYPES)
    assert (array.pointer, array.shape) == (value.array.ctypes.data, (2, 3))
    assert array.dtype == np.float32
    assert value.streams == [0x55]


def test_what_dlpack_cannot_hand_over(plain):
    square = np.zeros((2, 3), np.float32)
    with pytest.raises(ImageError, match="expected a C-contiguous"):
        as_device_array(Dlpack(square.T), device=plain, dtypes=DTYPES)
    with pytest.raises(ImageError, match="float64"):
        as_device_array(Dlpack(square.astype(float)), device=plain, dtypes=DTYPES)


def test_dlpack_without_cuda_core_says_what_to_install(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core.utils", None)
    with pytest.raises(OptionError, match=r"needs cuda.core: pip install 'klieg\[cuda\]'"):
        as_device_array(Dlpack(np.zeros(1)), device=plain, dtypes=DTYPES)
