"""The CPU in a GPU's place keeps CUDA's rules, and says when a kernel breaks them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from helpers.cpu_build import SHIM
from helpers.cpu_device import CpuDevice
from klieg.errors import DeviceError
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.device.array import DeviceArray

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

SEED = 5


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels(CpuDevice([SHIM / "self_test.cu"]))


def put(kernels: Kernels, array: np.ndarray) -> DeviceArray:
    return DeviceArray.of(kernels.device, array)


def empty(kernels: Kernels, *shape: int) -> DeviceArray:
    return DeviceArray.empty(kernels.device, shape, np.float32)


def test_fresh_memory_is_poisoned(kernels: Kernels) -> None:
    assert np.isnan(empty(kernels, 5).to_host(kernels.device)).all()


def test_threads_of_a_block_meet_at_a_barrier(kernels: Kernels) -> None:
    values = np.arange(3 * 256, dtype=np.float32).reshape(3, 256)
    reversed_ = empty(kernels, 3, 256)
    kernels.launch("reverse", (3, 1, 1), put(kernels, values), reversed_, 1, shared=1024)
    np.testing.assert_array_equal(reversed_.to_host(kernels.device), values[:, ::-1])
    kernels.launch("reverse_static", (3, 1, 1), put(kernels, values), reversed_)
    np.testing.assert_array_equal(reversed_.to_host(kernels.device), values[:, ::-1])


def test_a_missing_barrier_shows(kernels: Kernels) -> None:
    values = np.ones((1, 256), dtype=np.float32)
    found = empty(kernels, 1, 256)
    kernels.launch("reverse", (1, 1, 1), put(kernels, values), found, 0, shared=1024)
    assert np.isnan(found.to_host(kernels.device)).any()


def test_shared_memory_is_poisoned_for_every_block(kernels: Kernels) -> None:
    found = empty(kernels, 2)
    kernels.launch("read_unwritten", (3, 1, 1), found, shared=16)
    assert np.isnan(found.to_host(kernels.device)).all()


@pytest.mark.parametrize(("kind", "message"), [(0, "some threads"), (1, "different")])
def test_divergent_barriers_fail(kernels: Kernels, kind: int, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        kernels.launch("divergent_barrier", (1, 1, 1), kind)
    kernels.launch("divergent_barrier", (2, 1, 1), 2)  # and the device goes on


def test_half_product(kernels: Kernels) -> None:
    rng = np.random.default_rng(SEED)
    a, b = rng.standard_normal((2, 16, 16)).astype(np.float16)
    c = empty(kernels, 16, 16)
    kernels.launch("multiply_half", (1, 1, 1), put(kernels, a), put(kernels, b), c)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(c.to_host(kernels.device).T, expected, rtol=0, atol=1e-5)


def test_asynchronous_copies_arrive_when_waited_for(kernels: Kernels) -> None:
    source = np.arange(1024, dtype=np.float32).reshape(256, 4) + 1
    seen = empty(kernels, 2, 256, 4)
    kernels.launch("copy_late", (1, 1, 1), put(kernels, source), seen, 1, shared=4096)
    before, after = seen.to_host(kernels.device)
    assert np.isnan(before).all()
    source[1::2, 3] = 0  # four of the sixteen bytes were asked to be zero
    np.testing.assert_array_equal(after, source)
    with pytest.raises(DeviceError, match="without waiting"):
        kernels.launch("copy_late", (1, 1, 1), put(kernels, source), seen, 0, shared=4096)


def test_atomics(kernels: Kernels) -> None:
    total, total_of_halves, largest = (
        put(kernels, np.zeros(1, kind)) for kind in (np.int32, np.float32, np.int32)
    )
    kernels.launch("count", (4, 1, 1), total, total_of_halves, largest)
    host = [array.to_host(kernels.device)[0] for array in (total, total_of_halves, largest)]
    assert host == [1024, 512, 1023]


def test_arguments_are_checked(kernels: Kernels) -> None:
    array = empty(kernels, 256)
    for wrong in [(array, array), (array, array, 1.0), (array, 1, 1), (array, array, 1, 1)]:
        with pytest.raises(DeviceError, match="takes arguments 'ppi'"):
            kernels.launch("reverse", (1, 1, 1), *wrong, shared=1024)
    with pytest.raises(DeviceError, match="32 bits"):
        kernels.launch("reverse", (1, 1, 1), array, array, 2**31)
    with pytest.raises(DeviceError, match="no kernel 'reserve'"):
        kernels.launch("reserve", (1, 1, 1))


def test_limits_of_a_launch(kernels: Kernels) -> None:
    with pytest.raises(DeviceError, match="grid"):
        kernels.launch("divergent_barrier", (1, 70000, 1), 2)
    with pytest.raises(DeviceError, match="shared"):
        kernels.launch("divergent_barrier", (1, 1, 1), 2, shared=300_000)


def test_launches_are_recorded() -> None:
    device = CpuDevice([SHIM / "self_test.cu"])
    Kernels(device).launch("divergent_barrier", (2, 1, 1), 2, shared=64)
    (launch,) = device.launches
    assert (launch.name, launch.grid, launch.shared) == ("divergent_barrier", (2, 1, 1), 64)
