"""What is left after a failure, after closing, in a forked process and on another device."""

from __future__ import annotations

import os

import numpy as np
import pytest

from klieg.errors import DeviceError, DeviceMemoryError
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.opening import open_device
from recorded_driver import FATBIN


def test_a_full_memory_leaves_the_device_usable(driver, device):
    driver.failures["allocate"] = 2
    with pytest.raises(DeviceMemoryError, match=r"allocating 1,000 bytes, 12,345 bytes are free"):
        device.allocate(1000)
    device.synchronise()
    device.allocate(1000)


@pytest.mark.parametrize("code", [214, 700, 719, 999])
def test_after_a_fatal_failure_every_call_names_it(driver, device, kernel, code):
    buffer = device.allocate(64)
    driver.failures["sync"] = code
    with pytest.raises(DeviceError, match=rf"waiting for the stream failed: .*\({code}\)"):
        device.synchronise()
    driver.record.clear()
    for call in (
        device.synchronise,
        lambda: device.allocate(4),
        lambda: device.copy_in(np.zeros(1), buffer),
        lambda: device.copy_out(buffer, np.zeros(1)),
        lambda: device.copy_across(buffer, buffer),
        lambda: device.load(FATBIN),
        lambda: device.launch(kernel, (1, 1, 1), 1, []),
        lambda: device.wait_for(3),
        lambda: device.gpu_of(3),
        lambda: device.capture().__enter__(),
        lambda: device.activated().__enter__(),
    ):
        with pytest.raises(DeviceError, match=rf"earlier failure .*\({code}\)"):
            call()
    device.close()  # nothing left to do
    assert driver.record == []  # the GPU is not asked again


def test_a_fatal_failure_lets_go_of_all_memory(driver, device, kernel):
    array = DeviceArray.of(device, np.zeros(4, np.float32))
    driver.failures["launch"] = 700
    with pytest.raises(DeviceError, match="refuses all further work"):
        device.launch(kernel, (1, 1, 1), 1, [])
    tried = [entry for entry in driver.record if entry[0] == "free"]
    assert tried == [("free", array.pointer)]  # in vain: the context is dead
    assert kernel.function is None
    driver.record.clear()
    del array
    assert driver.record == []


def test_a_copy_on_the_device_fails_as_the_driver_says(driver, device):
    source, destination = device.allocate(8), device.allocate(8)
    driver.failures["copy"] = 1
    with pytest.raises(DeviceError, match=r"copying 8 bytes on the GPU failed: .*still be used"):
        device.copy_across(source, destination)
    device.copy_across(source, destination)
    driver.failures["copy"] = 700
    with pytest.raises(DeviceError, match=r"copying 8 bytes .*\(700\): the GPU refuses all"):
        device.copy_across(source, destination)


def test_a_closed_device_says_so(driver, device):
    buffer = device.allocate(4)
    driver.record.clear()
    device.close()
    device.close()
    assert driver.names() == ["sync"]
    for call in (lambda: device.allocate(4), lambda: device.copy_across(buffer, buffer)):
        with pytest.raises(DeviceError, match="is closed: open it again"):
            call()


def test_a_forked_process_cannot_use_it(driver, device, monkeypatch):
    buffer = device.allocate(4)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(DeviceError, match="process 1: CUDA does not survive a fork"):
        device.synchronise()
    del buffer
    assert driver.names() == ["allocate"]  # the parent's memory is not freed


def test_two_devices_do_not_mix(driver, package, device, kernel):
    other = open_device(package, index=1)
    buffer = other.allocate(4)
    array = DeviceArray.of(other, np.zeros(1, np.float32))
    said = rf"belongs to device {package}:1, but device {package}:0 was asked"
    with pytest.raises(DeviceError, match=said):
        device.copy_in(np.zeros(1, np.float32), buffer)
    with pytest.raises(DeviceError, match=said):
        array.to_host(device)
    own = device.allocate(4)
    for source, destination in ((array, own), (own, array)):
        with pytest.raises(DeviceError, match=said):
            device.copy_across(source, destination)
    with pytest.raises(DeviceError, match=rf"the kernel belongs to device {package}:0"):
        other.launch(kernel, (1, 1, 1), 1, [])
