"""A double of cuda.core 1.2.2: its names, types, exceptions and failures, and nothing else.

A call to something that does not exist fails here too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from recorded_driver import KERNELS, TEXTS, CUresult, Driver, RefusalError, module


def cuda_core(driver: Driver) -> dict[str, ModuleType]:
    """Return modules to put into sys.modules."""

    class CUDAError(Exception):
        pass

    def raising(function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **options: Any) -> Any:
            try:
                return function(*args, **options)
            except RefusalError as refusal:
                name, text = TEXTS[refusal.code]
                raise CUDAError(f"{name}: {text}, at length") from None

        return inner

    def returning(function: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
        def inner(*args: Any) -> tuple[Any, ...]:
            try:
                return CUresult.CUDA_SUCCESS, function(*args)
            except RefusalError as refusal:
                return (CUresult(refusal.code),)

        return inner

    def handle_return(result: tuple[Any, ...]) -> Any:
        if result[0]:
            name, text = TEXTS[result[0]]
            raise CUDAError(f"{name}: {text}, at length")
        return result[1]

    class Stream:
        def __init__(self, handle: int, gpu: int) -> None:
            self.handle, self.device = handle, SimpleNamespace(device_id=gpu)

        @staticmethod
        def from_handle(handle: int) -> Stream:
            return Stream(handle, 1 if handle == 0x1111 else 0)

        @raising
        def sync(self) -> None:
            driver.call("sync", self.handle)

        def create_graph_builder(self) -> Builder:
            return Builder(self)

    class Builder:
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

        @raising
        def begin_building(self, mode: str) -> Builder:
            driver.call("begin", mode, self.stream.handle)
            return self

        @raising
        def end_building(self) -> Builder:
            driver.call("end")
            return self

        def complete(self) -> Any:
            launch = raising(lambda stream: driver.call("graph", stream.handle))
            return SimpleNamespace(launch=launch)

    class Buffer:
        def __init__(self, size: int, stream: Stream) -> None:
            self.handle, self.stream = driver.allocate(size), stream

        @raising
        def close(self) -> None:
            driver.push(0)  # cuda.core activates the stream's context by itself
            try:
                driver.free(self.handle)
            finally:
                driver.pop()

    class Device:
        name, compute_capability = "Fake GPU", (9, 0)

        def __init__(self, index: int) -> None:
            self.index = index

        @raising
        def set_current(self) -> None:
            driver.call("primary", self.index, context=False)
            driver.contexts = [100 + self.index]

        @property
        def context(self) -> Any:
            return SimpleNamespace(handle=100 + self.index)

        @raising
        def create_stream(self, obj: Any = None, options: Any = None) -> Stream:
            if obj is not None:
                return Stream(obj.__cuda_stream__()[1], self.index)
            driver.call("stream", options.nonblocking)
            driver.streams += 1
            return Stream(driver.streams, self.index)

        @raising
        def allocate(self, size: int, *, stream: Stream) -> Buffer:
            return Buffer(size, stream)

    class ObjectCode:
        def __init__(self, kind: str, code: bytes) -> None:
            self.kind, self.code = kind, code

        @property
        def handle(self) -> int:
            raising(driver.call)("load", self.kind, self.code)
            return 0x8000

        @raising
        def get_kernel(self, name: str) -> Any:
            if name not in KERNELS:
                raise RefusalError("function", 500)
            return SimpleNamespace(handle=name)

        @classmethod
        def from_fatbin(cls, code: bytes) -> ObjectCode:
            return cls("fatbin", code)

        @classmethod
        def from_cubin(cls, code: bytes) -> ObjectCode:
            return cls("cubin", code)

        @classmethod
        def from_ptx(cls, code: bytes) -> ObjectCode:
            return cls("ptx", code)

    def launch(stream: Stream, config: Any, kernel: Any, *args: Any) -> None:
        driver.launch(
            kernel.handle, config.grid, config.block, config.shmem_size, args, stream.handle
        )

    def copy_in(pointer: int, host: int, size: int, stream: int) -> None:
        driver.write(pointer, ctypes.string_at(host, size), stream)

    def copy_out(host: int, pointer: int, size: int, stream: int) -> None:
        ctypes.memmove(host, driver.read(pointer, size, stream), size)

    core = module(
        "cuda.core",
        __version__="1.2.2",
        Device=Device,
        Stream=Stream,
        StreamOptions=SimpleNamespace,
        LaunchConfig=SimpleNamespace,
        ObjectCode=ObjectCode,
        launch=raising(launch),
    )
    names = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    bindings = module(
        "cuda.bindings.driver",
        CUresult=CUresult,
        CUfunction_attribute=names,
        CU_STREAM_LEGACY=1,
        cuCtxGetCurrent=returning(lambda: driver.contexts[-1] if driver.contexts else 0),
        cuCtxSetCurrent=returning(lambda context: driver.contexts.__setitem__(-1, context)),
        cuCtxPushCurrent=returning(driver.push),
        cuCtxPopCurrent=returning(driver.pop),
        cuMemcpyHtoDAsync=returning(copy_in),
        cuMemcpyDtoHAsync=returning(copy_out),
        cuMemcpyDtoDAsync=returning(driver.copy),
        cuDeviceGet=returning(lambda index: index),
        cuKernelSetAttribute=returning(
            lambda attribute, size, kernel, gpu: driver.call("shared", attribute, size, kernel)
        ),
    )
    utils = module("cuda.core._utils.cuda_utils", CUDAError=CUDAError, handle_return=handle_return)
    package = module("cuda.bindings", driver=bindings)
    return {
        "cuda": module("cuda", core=core, bindings=package),
        "cuda.core": core,
        "cuda.core._utils": module("cuda.core._utils", cuda_utils=utils),
        "cuda.core._utils.cuda_utils": utils,
        "cuda.bindings": package,
        "cuda.bindings.driver": bindings,
    }
