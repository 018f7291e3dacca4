"""A driver in host memory that records what is asked of it; the doubles of both packages use it."""

from __future__ import annotations

from enum import IntEnum
from types import ModuleType
from typing import Any

from klieg.kernels.device.libcuda import STICKY

FATBIN = b"\x50\xed\x55\xba and more"
KERNELS = ("klieg_a", "klieg_b")
TEXTS = {
    1: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    2: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    46: ("CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"),
    209: ("CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution"),
    214: ("CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"),
    500: ("CUDA_ERROR_NOT_FOUND", "named symbol not found"),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    719: ("CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    999: ("CUDA_ERROR_UNKNOWN", "unknown error"),
}
CUresult = IntEnum(
    "CUresult", {"CUDA_SUCCESS": 0} | {text[0]: code for code, text in TEXTS.items()}
)


class RefusalError(Exception):
    def __init__(self, call: str, code: int) -> None:
        super().__init__(call, code)
        self.call, self.code = call, code


class Driver:
    """Two GPUs in host memory, and a record of everything asked of them."""

    def __init__(self) -> None:
        self.record: list[tuple[Any, ...]] = []
        self.failures: dict[str, int] = {}  # name of the call -> code of its next failure
        self.dead = 0
        self.memory: dict[int, bytearray] = {}
        self.allocations = 0
        self.contexts: list[int] = []  # the stack of current ones
        self.locations: dict[int, int] = {}  # address of somebody else's memory -> its GPU
        self.pinned: set[int] = set()
        self.streams = 0x5000
        self.version, self.count = (13, 0), 2

    def call(self, name: str, *details: Any, context: bool = True) -> None:
        assert self.contexts or not context, f"{name} without a current context"
        self.record.append((name, *details))
        code = self.dead or self.failures.pop(name, 0)
        if code:
            self.dead = code if code in STICKY else 0
            raise RefusalError(name, code)

    def names(self) -> list[str]:
        """The record without the comings and goings of contexts."""
        return [entry[0] for entry in self.record if entry[0] not in ("push", "pop")]

    def push(self, context: int) -> None:
        self.contexts.append(context)
        self.record.append(("push", context))

    def pop(self) -> int:
        self.record.append(("pop",))
        return self.contexts.pop()

    def allocate(self, size: int) -> int:
        self.call("allocate", size)
        self.allocations += 1
        pointer = 0x7F00_0000_0000 + 0x1000 * self.allocations
        self.memory[pointer] = bytearray(b"\xff" * size)
        return pointer

    def free(self, pointer: int) -> None:
        self.call("free", pointer)
        del self.memory[pointer]

    def write(self, pointer: int, data: bytes, stream: int) -> None:
        self.call("write", pointer, len(data), stream)
        self.memory[pointer][: len(data)] = data

    def read(self, pointer: int, size: int, stream: int) -> bytes:
        self.call("read", pointer, size, stream)
        return bytes(self.memory[pointer][:size])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.call("copy", target, source, size, stream)
        self._at(target, size)[:] = self._at(source, size)

    def _at(self, pointer: int, size: int) -> memoryview:
        for start, content in self.memory.items():
            if start <= pointer <= pointer + size <= start + len(content):
                return memoryview(content)[pointer - start :][:size]
        raise AssertionError(f"{size} bytes at {pointer:x} are not allocated")

    def launch(
        self, kernel: str, grid: Any, block: Any, shared: int, args: Any, stream: int
    ) -> None:
        packed = tuple((type(value).__name__, value.item()) for value in args)
        self.call("launch", kernel, grid, block, shared, packed, stream)


class FakeLibcuda:
    """Stands for `klieg.kernels.device.libcuda.Libcuda`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def cuda_version(self) -> tuple[int, int]:
        return self._driver.version

    def count(self) -> int:
        return self._driver.count

    def error_text(self, code: int) -> str:
        return TEXTS[code][1] if code in TEXTS else f"text of {code}"

    def free_memory(self) -> int:
        assert self._driver.contexts
        return 12_345

    def is_pinned(self, address: int) -> bool:
        return address in self._driver.pinned

    def gpu_of(self, address: int) -> int | None:
        return self._driver.locations.get(address)

    def wait(self, stream: int, producer: int) -> None:
        self._driver.call("wait", stream, producer)


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made
