"""Launches and the code that is launched: packed rightly, or refused before the GPU sees them."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import DeviceError, InputError
from recorded_driver import FATBIN

ARGUMENTS = [np.int32(-7), np.uint64(0x7F00_0000_1000), np.float32(1.5)]


def test_a_launch_is_packed_by_type_and_in_order(driver, device, kernel):
    device.launch(kernel, (3, 2, 1), 256, ARGUMENTS, shared=1024)
    packed = (("int32", -7), ("uint64", 0x7F00_0000_1000), ("float32", 1.5))
    launch = ("launch", "klieg_a", (3, 2, 1), 256, 1024, packed, device.stream)
    assert next(entry for entry in driver.record if entry[0] != "push") == launch
    assert driver.names() == ["launch"]


def test_shared_memory_above_48_kib_is_asked_for_once(driver, device, kernel):
    for shared in (48 * 1024, 60_000, 60_000, 50_000, 70_000):
        device.launch(kernel, (1, 1, 1), 256, [], shared=shared)
    asked = [entry[2:] for entry in driver.record if entry[0] == "shared"]
    assert asked == [(60_000, "klieg_a"), (70_000, "klieg_a")]
    assert driver.names() == ["launch", "shared", "launch", "launch", "launch", "shared", "launch"]


def test_the_largest_launch_passes(driver, device, kernel):
    device.launch(kernel, (2**31 - 1, 65_535, 65_535), 1024, [])
    assert driver.names() == ["launch"]


@pytest.mark.parametrize(
    ("grid", "block", "arguments", "shared", "said"),
    [
        ((0, 1, 1), 256, [], 0, "grid"),
        ((1, 1), 256, [], 0, "grid"),
        ((2**31, 1, 1), 256, [], 0, "grid"),
        ((1, 65_536, 1), 256, [], 0, "grid"),
        ((1, 1, 65_536), 256, [], 0, "grid"),
        ((np.int64(1), 1, 1), 256, [], 0, "grid"),
        ((1, 1, 1), 0, [], 0, "block"),
        ((1, 1, 1), 1025, [], 0, "block"),
        ((1, 1, 1), 256, [], -1, "shared"),
        ((1, 1, 1), 256, [np.int32(0), 3], 0, "argument 1 is a int"),
        ((1, 1, 1), 256, [np.float64(0)], 0, "argument 0 is a float64"),
    ],
)
def test_an_impossible_launch_is_refused_before_it(
    driver, device, kernel, grid, block, arguments, shared, said
):
    with pytest.raises(InputError, match=said):
        device.launch(kernel, grid, block, arguments, shared=shared)
    assert driver.record == []


def test_a_refused_launch_leaves_the_device_usable(driver, device, kernel):
    driver.failures["launch"] = 1
    with pytest.raises(DeviceError, match=r"launching klieg_a failed.*can still be used"):
        device.launch(kernel, (1, 1, 1), 1, [])
    device.launch(kernel, (1, 1, 1), 1, [])


def test_code_for_another_gpu_and_an_unknown_kernel(driver, device):
    driver.failures["load"] = 209
    with pytest.raises(DeviceError, match="loading 13 bytes of code failed"):
        device.load(FATBIN)
    module = device.load(FATBIN)
    with pytest.raises(DeviceError, match="kernel 'klieg_c' failed"):
        module.kernel("klieg_c")
    assert module.kernel("klieg_b") is module.kernel("klieg_b")
