"""A double of pycuda 2026.1: its names, types, exceptions and failures, and nothing else.

A call to something that does not exist fails here too.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from recorded_driver import KERNELS, TEXTS, Driver, RefusalError, module


def pycuda(driver: Driver) -> dict[str, ModuleType]:
    """Return modules to put into sys.modules."""

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    def raising(function: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **options: Any) -> Any:
            try:
                return function(*args, **options)
            except RefusalError as refusal:
                raise LogicError(f"cu{refusal.call} failed: {TEXTS[refusal.code][1]}") from None

        return inner

    class Context:
        def __init__(self, index: int) -> None:
            self.index = index

        def push(self) -> None:
            driver.push(100 + self.index)

        @staticmethod
        def pop() -> None:
            driver.pop()

        @staticmethod
        def get_current() -> Context | None:
            return Context(driver.contexts[-1] - 100) if driver.contexts else None

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Context) and self.index == other.index

        __hash__ = None  # type: ignore[assignment]

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def name(self) -> str:
            return "Fake GPU"

        def compute_capability(self) -> tuple[int, int]:
            return 9, 0

        @raising
        def retain_primary_context(self) -> Context:
            driver.call("primary", self.index, context=False)
            return Context(self.index)

    class Stream:
        @raising
        def __init__(self, flags: int) -> None:
            driver.call("stream", flags == 1)
            driver.streams += 1
            self.handle = driver.streams

        @raising
        def synchronize(self) -> None:
            driver.call("sync", self.handle)

    class Block:
        def __init__(self, size: int) -> None:
            self.pointer = driver.allocate(size)

        def __int__(self) -> int:
            return self.pointer

        @raising
        def free(self) -> None:
            driver.free(self.pointer)

    class DeviceMemoryPool:
        allocate = staticmethod(raising(Block))

    class Function:
        def __init__(self, name: str) -> None:
            self.name = name

        @raising
        def set_attribute(self, attribute: int, size: int) -> None:
            driver.call("shared", attribute, size, self.name)

        @raising
        def __call__(self, *args: Any, grid: Any, block: Any, shared: int, stream: Stream) -> None:
            assert block[1:] == (1, 1)
            driver.launch(self.name, grid, block[0], shared, args, stream.handle)

    class Module:
        @raising
        def get_function(self, name: str) -> Function:
            if name not in KERNELS:
                raise RefusalError("function", 500)
            return Function(name)

    def load(code: bytes) -> Module:
        driver.call("load", "any", code)
        return Module()

    def copy_in(pointer: int, source: Any, stream: Stream) -> None:
        driver.write(pointer, source.tobytes(), stream.handle)

    def copy_out(target: Any, pointer: int, stream: Stream) -> None:
        data = driver.read(pointer, target.nbytes, stream.handle)
        target[...] = np.frombuffer(data, target.dtype).reshape(target.shape)

    def copy_across(target: int, source: int, size: int, stream: Stream) -> None:
        driver.copy(target, source, size, stream.handle)

    drv = module(
        "pycuda.driver",
        Error=Error,
        Context=Context,
        Device=Device,
        Stream=Stream,
        DeviceMemoryPool=DeviceMemoryPool,
        function_attribute=SimpleNamespace(MAX_DYNAMIC_SHARED_SIZE_BYTES=8),
        init=lambda: None,
        module_from_buffer=raising(load),
        memcpy_htod_async=raising(copy_in),
        memcpy_dtoh_async=raising(copy_out),
        memcpy_dtod_async=raising(copy_across),
    )
    return {"pycuda": module("pycuda", driver=drv, VERSION_TEXT="2026.1"), "pycuda.driver": drv}
