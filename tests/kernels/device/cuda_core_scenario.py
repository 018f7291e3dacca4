"""What is asked of the real cuda.core in a process of its own, over the driver of fake_libcuda.c.

It adds to the driver's record: "== " and what is done next, and what came of it.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import driver

from klieg.errors import KliegError
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.inventory import take_inventory
from klieg.kernels.device.opening import open_device
from klieg.kernels.device.sharing import as_device_array

FATBIN, CUBIN, PTX = b"\x50\xed\x55\xba..", b"\x7fELF..", b".version 9.0"
INVALID_VALUE, OUT_OF_MEMORY, NO_BINARY_FOR_GPU, ILLEGAL_ADDRESS = 1, 2, 209, 700
VALUES = np.arange(6, dtype=np.float32)
PINNED = VALUES + 1

libcuda = ctypes.CDLL("libcuda.so.1")


def note(text: object) -> None:
    libcuda.fake_note(str(text).encode())


def step(name: str) -> None:
    note(f"== {name}")


def fail(function: str, code: int, *, for_good: bool = False) -> None:
    libcuda.fake_fail(function.encode(), code, for_good)


def refused(call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    try:
        call(*arguments, **options)
    except KliegError as error:
        note(f"{type(error).__name__}: {error}")
    else:
        note("was not refused")


def checked(result: tuple[Any, ...]) -> Any:
    assert not result[0], result
    return result[1] if len(result) > 1 else None


def stream_on(gpu: int) -> int:
    """Make a stream of somebody else."""
    checked(driver.cuCtxPushCurrent(checked(driver.cuDevicePrimaryCtxRetain(gpu))))
    stream = checked(driver.cuStreamCreateWithPriority(1, 0))
    checked(driver.cuCtxPopCurrent())
    return int(stream)


class ForeignStream:
    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def in_a_thread(call: Callable[[], object]) -> None:
    """Call where no context is current."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


checked(driver.cuInit(0))
# Somebody else computes on the other GPU: nothing may run in this context, and it has to stay.
checked(driver.cuCtxSetCurrent(checked(driver.cuDevicePrimaryCtxRetain(1))))

step("opening")
device = open_device("cuda.core")
note(f"{device.name}, {device.architecture}, {device.stream:x}, {device.versions['CUDA driver']}")
note(take_inventory().gpus[1])

step("copying")
array = DeviceArray.of(device, VALUES)
note(array.to_host(device))
step("copying on the GPU")
device.copy_across(array.rows(4, 2), array.rows(1, 2))
note(array.to_host(device))
step("copying on the GPU in vain")
refused(device.copy_across, DeviceArray(0x7E00_0000_0000, (2,), array.dtype, None), array)
step("copying pinned memory")
checked(driver.cuMemHostRegister(PINNED.ctypes.data, PINNED.nbytes, 0))
device.copy_in(PINNED, array.owner)
step("copying in a thread")
in_a_thread(lambda: note(DeviceArray.of(device, VALUES).to_host(device)))

step("loading")
modules = [device.load(code) for code in (FATBIN, CUBIN, PTX)]
kernel = modules[0].kernel("klieg_k")
step("loading in vain")
fail("cuLibraryLoadData", NO_BINARY_FOR_GPU)
refused(device.load, CUBIN)
refused(modules[0].kernel, "klieg_other")

step("launching")
ARGUMENTS = (np.int32(-7), np.uint64(array.pointer), np.float32(1.5))
device.launch(kernel, (3, 2, 1), 256, ARGUMENTS)
step("launching with shared memory")
for shared in (48 * 1024, 60_000, 60_000):
    device.launch(kernel, (1, 1, 1), 32, ARGUMENTS, shared=shared)
step("launching in vain")
fail("cuLaunchKernelEx", INVALID_VALUE)
refused(device.launch, kernel, (1, 1, 1), 32, ARGUMENTS)

step("recording")
with device.capture() as graph:
    device.launch(kernel, (1, 1, 1), 32, ARGUMENTS)
    refused(device.allocate, 4)
step("replaying")
graph.launch()
graph.launch()
step("dropping the graph")
del graph

step("filling the memory")
fail("cuMemAllocFromPoolAsync", OUT_OF_MEMORY)
refused(device.allocate, 10**9)
device.allocate(16)

step("making a stream of others")
foreign = stream_on(0)
streams = {
    "handle": foreign,
    "object": ForeignStream(foreign),
    "default handle": 0,
    "default object": ForeignStream(0),
}
for name, stream in streams.items():
    step(f"sharing a stream: {name}")
    guest = open_device("cuda.core", stream=stream)
    on_stream = DeviceArray.of(guest, VALUES)
    note(f"{guest.stream:x}")
    step(f"sharing an array: {name}")
    taken = as_device_array(on_stream, device=device, dtypes=["float32"])
    note(taken.pointer == on_stream.pointer)
    step(f"dropping an array: {name}")
    guest.close()
    kept = [on_stream]
    del taken, on_stream, guest
    in_a_thread(kept.clear)
step("refusing a stream")
refused(open_device, "cuda.core", stream=stream_on(1))

step("closing")
other = open_device("cuda.core", index=1)
last = other.allocate(8)
other.close()
refused(other.synchronise)
step("dropping the last memory")
del last, other
gc.collect()

step("failing for good")
fail("cuStreamSynchronize", ILLEGAL_ADDRESS, for_good=True)
refused(device.synchronise)
step("having failed")
refused(device.allocate, 4)
refused(device.launch, kernel, (1, 1, 1), 32, ARGUMENTS)
device.close()
step("leaving")
