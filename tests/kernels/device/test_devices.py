"""Both devices against their doubles: opening, memory and copies, contexts, threads, streams."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from klieg.errors import DeviceError, InputError, OptionError
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.opening import open_device

ARGUMENTS = [np.int32(-7), np.uint64(0x7F00_0000_1000), np.float32(1.5)]


def test_opening_takes_the_primary_context_and_a_stream_of_its_own(driver, package):
    device = open_device(package, index=1)
    assert ("primary", 1) in driver.record
    assert ("stream", True) in driver.record  # does not wait for the default stream
    assert device.stream == driver.streams
    assert (device.name, device.architecture, device.index) == ("Fake GPU", (9, 0), 1)
    assert device.versions["CUDA driver"] == "13.0"
    assert package in device.versions


def test_an_array_goes_there_and_back_on_the_stream(driver, device):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    there = DeviceArray.of(device, array)
    back = there.to_host(device)
    np.testing.assert_array_equal(back, array)
    assert driver.names() == ["allocate", "write", "read", "sync"]  # a copy in does not wait
    assert ("write", there.pointer, 24, device.stream) in driver.record
    assert ("read", there.pointer, 24, device.stream) in driver.record


def test_a_pinned_array_is_waited_for(driver, device):
    array = np.arange(6, dtype=np.float32)
    driver.pinned.add(array.ctypes.data)
    DeviceArray.of(device, array)
    assert driver.names()[:3] == ["allocate", "write", "sync"]


def test_an_empty_array_is_not_copied(driver, device):
    array = np.zeros((0, 3), np.float32)
    there = DeviceArray.of(device, DeviceArray.of(device, array))
    assert there.to_host(device).shape == (0, 3)
    assert {"write", "copy", "read"}.isdisjoint(driver.names())


def test_rows_are_copied_on_the_device_without_waiting(driver, device):
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    there = DeviceArray.of(device, array)
    driver.record.clear()
    part = DeviceArray.of(device, there.rows(1, 2))
    assert driver.names() == ["allocate", "copy"]
    assert ("copy", part.pointer, there.pointer + 12, 24, device.stream) in driver.record
    picked = there.gathered(device, [2, 0, 2])
    assert driver.names()[2:] == ["allocate", "copy", "copy", "copy"]
    np.testing.assert_array_equal(part.to_host(device), array[1:3])
    np.testing.assert_array_equal(picked.to_host(device), array[[2, 0, 2]])


def test_rows_lie_within_the_array(driver, device):
    array = DeviceArray.empty(device, (4, 3), np.float32)
    driver.record.clear()
    assert array.rows(4, 0).size == 0
    for start, count in ((-1, 1), (4, 1), (0, 5), (2, -1)):
        with pytest.raises(InputError, match=r"but the array on the GPU is \[4, 3\]"):
            array.rows(start, count)
    assert driver.record == []


def test_memory_of_others_is_copied(driver, device):
    driver.memory[0x7EEE_0000] = bytearray(b"abcdefgh")
    theirs = DeviceArray(0x7EEE_0001, (4,), np.dtype(np.uint8), owner=object())
    assert DeviceArray.of(device, theirs).to_host(device).tobytes() == b"bcde"


def test_a_copy_on_the_device_that_does_not_fit_is_refused_before_it(driver, device):
    buffer, small = device.allocate(64), device.allocate(16)
    driver.record.clear()
    with pytest.raises(InputError, match=r"64 bytes .* but the destination there has 16: allocate"):
        device.copy_across(buffer, small)
    assert driver.record == []
    device.copy_across(small, buffer)
    assert driver.names() == ["copy"]


def test_contexts_are_put_back(driver, device, kernel):
    before = list(driver.contexts)
    driver.contexts.append(7)  # somebody else's
    device.launch(kernel, (1, 1, 1), 32, ARGUMENTS)
    driver.failures["launch"] = 1
    with pytest.raises(DeviceError):
        device.launch(kernel, (1, 1, 1), 32, ARGUMENTS)
    with device.activated():
        assert driver.contexts[-1] == 100
    assert driver.contexts == [*before, 7]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 4), np.float32).T[1:], "C-contiguous"),
        (np.zeros(17, np.float32), "68 bytes, but the memory on the GPU has 64"),
    ],
)
def test_an_impossible_copy_is_refused_before_it(driver, device, array, said):
    buffer = device.allocate(64)
    driver.record.clear()
    for copy in (
        lambda: device.copy_in(array, buffer),
        lambda: device.copy_out(buffer, array),
    ):
        with pytest.raises(InputError, match=said):
            copy()
    assert driver.record == []


def test_a_read_only_target_and_an_impossible_size_are_refused(driver, device):
    buffer = device.allocate(64)
    target = np.zeros(4, np.float32)
    target.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        device.copy_out(buffer, target)
    for size in (0, -1, 1.0, True):
        with pytest.raises(OptionError, match="size"):
            device.allocate(size)
    assert driver.names() == ["allocate"]


def test_memory_is_freed_with_the_last_reference_even_after_closing(driver, device):
    first = DeviceArray.of(device, np.zeros(4, np.float32))
    second = DeviceArray(first.pointer, (2,), first.dtype, first)  # a part of it
    last = device.allocate(4)
    del first
    assert "free" not in driver.names()
    freed = second.pointer
    del second
    assert [entry for entry in driver.record if entry[0] == "free"] == [("free", freed)]
    device.close()
    assert driver.names()[-1] == "sync"
    del last
    assert driver.names()[-1] == "free"
    assert driver.memory == {}


def test_two_threads_wait_for_each_other(driver, device, kernel):
    inside = threading.Barrier(2)
    order = []

    def other():
        inside.wait()
        device.launch(kernel, (1, 1, 1), 1, [])
        order.append("launched")

    thread = threading.Thread(target=other)
    with device.activated():
        thread.start()
        inside.wait()
        thread.join(timeout=0.05)
        assert thread.is_alive()
        order.append("left")
    thread.join()
    assert order == ["left", "launched"]


def test_waiting_for_another_stream(driver, device):
    device.wait_for(device.stream)
    assert driver.record == []  # nothing to order on one stream
    device.wait_for(0x77)
    assert ("wait", device.stream, 0x77) in driver.record
