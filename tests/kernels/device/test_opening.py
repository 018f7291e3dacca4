"""Opening a device: names, drivers, streams, and what is said when something is missing."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from klieg.errors import DeviceError, OptionError
from klieg.kernels.device import opening
from klieg.kernels.device.inventory import take_inventory
from klieg.kernels.device.libcuda import LibcudaError
from klieg.kernels.device.opening import open_device


class ForeignStream:
    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 0x7777


def test_an_unknown_name_and_an_impossible_index(driver):
    with pytest.raises(OptionError, match=r"'cupy', expected cuda.core or pycuda"):
        open_device("cupy")
    with pytest.raises(OptionError, match=r"'pycuda:x', expected"):
        open_device("pycuda:x")
    for index in (-1, 0.0, True):
        with pytest.raises(OptionError, match="number of a GPU"):
            open_device("cuda.core", index=index)


def test_the_second_gpu(driver, package):
    assert open_device(f"{package}:1").index == 1
    assert open_device(f"{package}:0", index=1).index == 1
    assert open_device(package).index == 0


@pytest.mark.parametrize(("name", "extra"), [("cuda.core", "cuda"), ("pycuda", "pycuda")])
def test_a_missing_package_is_named_with_its_extra(driver, monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DeviceError, match=rf"{name} .*pip install 'klieg\[{extra}\]'"):
        open_device(name)


def test_an_old_driver_and_a_missing_gpu(driver, package):
    with pytest.raises(DeviceError, match="GPU 2 was asked for, but the driver finds 2"):
        open_device(package, index=2)
    driver.version = (12, 8)
    with pytest.raises(DeviceError, match=r"supports CUDA 12.8, expected at least 13.0.*580"):
        open_device(package)
    assert driver.record == []


def test_a_driver_that_lacks_a_function(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(cuInit=SimpleNamespace()))
    with pytest.raises(DeviceError, match=r"has no cuDriverGetVersion, expected driver 580"):
        open_device("cuda.core")


def test_a_driver_that_does_not_start(monkeypatch):
    def broken():
        raise LibcudaError("cuInit", 100, "no CUDA-capable device is detected")

    monkeypatch.setattr(opening, "Libcuda", broken)
    with pytest.raises(DeviceError, match=r"does not start .*no CUDA-capable device"):
        open_device("cuda.core")


def test_a_gpu_that_is_busy(driver, package):
    driver.failures["primary"] = 46
    with pytest.raises(DeviceError, match=r"cannot be opened .*busy or unavailable"):
        open_device(package)


@pytest.mark.parametrize(
    ("stream", "handle"), [(0, 1), (1, 1), (2, 2), (0x6000, 0x6000), (ForeignStream(), 0x7777)]
)
def test_cuda_core_takes_a_stream_of_others(driver, stream, handle):
    device = open_device("cuda.core", stream=stream)
    assert device.stream == handle
    device.synchronise()
    assert ("sync", handle) in driver.record
    assert "stream" not in driver.names()


@pytest.mark.parametrize("stream", ["default", -1, True, 1.0])
def test_what_is_no_stream_is_refused(driver, stream):
    with pytest.raises(OptionError, match="expected the handle of a CUDA stream"):
        open_device("cuda.core", stream=stream)


def test_a_stream_of_another_gpu_is_refused(driver):
    with pytest.raises(OptionError, match=r"stream is of GPU 1, but GPU 0 .*index=1"):
        open_device("cuda.core", stream=0x1111)


def test_pycuda_takes_no_stream_of_others(driver):
    with pytest.raises(OptionError, match=r"expected None: open 'cuda.core'"):
        open_device("pycuda", stream=0x6000)


def test_the_current_context_of_others_stays(driver, package):
    driver.contexts.append(7)
    open_device(package)
    assert driver.contexts == [7]


def test_cuda_core_tells_fatbins_cubins_and_ptx_apart(driver):
    device = open_device("cuda.core")
    for code in (b"\x50\xed\x55\xba..", b"\x7fELF..", b".version 9.0"):
        device.load(code)
    loads = [entry[1] for entry in driver.record if entry[0] == "load"]
    assert loads == ["fatbin", "cubin", "ptx"]


def test_this_machine_without_a_driver():
    inventory = take_inventory()
    if inventory.gpus:
        pytest.skip("there is a GPU here")
    assert inventory.reason is not None
    with pytest.raises(DeviceError, match="driver"):
        open_device("cuda.core")
