"""The package `tensorrt`, imported when it is first needed, and its messages."""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Final, Protocol, cast

import klieg.backends.tensorrt.interface as api
from klieg.errors import BackendError, DeviceMemoryError

MAJORS: Final = (10, 11)
"""Versions whose common interface is used."""

OLDEST: Final = (10, 1)
"""The first version whose engines say how much memory they need in 64 bits, and take it so."""

MESSAGES: Final = 8
"""Complaints that an error message quotes, the latest ones."""

_FULL: Final = re.compile("out ?of ?memory|cudaErrorMemoryAllocation", re.IGNORECASE)
"""How TensorRT, and CUDA below it, say that the memory of the GPU is full."""


class Package(Protocol):
    """What is used of the package itself."""

    __version__: str
    ILogger: type[api.ILogger]
    Builder: Callable[[api.ILogger], api.Builder]
    OnnxParser: Callable[[api.INetworkDefinition, api.ILogger], api.OnnxParser]
    Runtime: Callable[[api.ILogger], api.Runtime]
    NetworkDefinitionCreationFlag: api.NetworkDefinitionCreationFlag
    BuilderFlag: api.BuilderFlag
    MemoryPoolType: api.MemoryPoolType
    ExecutionContextAllocationStrategy: api.ExecutionContextAllocationStrategy
    DataType: api.DataType
    TensorLocation: api.TensorLocation


class Log:
    """What TensorRT complained of lately.

    TensorRT says that it ignores every logger of a process but the first, so there is one for all
    builders and engines: see `process_log`. Where several of them work at once, their complaints
    mix.
    """

    def __init__(self, trt: Package) -> None:
        self._lines: deque[str] = deque(maxlen=MESSAGES)
        lines = self._lines
        complaints = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

        class Logger(trt.ILogger):  # type: ignore[name-defined, misc]  # known when it runs
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if severity in complaints:
                    lines.append(msg)

        self.logger: Final = Logger()

    def clear(self) -> None:
        """Forget what came before the call that is about to be made."""
        self._lines.clear()

    def text(self) -> str:
        """Return the complaints since `clear` in one line."""
        return "; ".join(self._lines) or "TensorRT gives no reason"


@dataclass(frozen=True)
class TensorRT:
    """The package, its version and its messages."""

    package: Package
    version: str
    log: Log

    def builder(self) -> api.Builder:
        """Return a new builder or raise BackendError."""
        try:
            return self.package.Builder(self.log.logger)
        except TypeError as error:  # what the bindings make of a null pointer
            raise self._no_start(error) from error

    def runtime(self) -> api.Runtime:
        """Return a new runtime or raise BackendError."""
        try:
            return self.package.Runtime(self.log.logger)
        except TypeError as error:
            raise self._no_start(error) from error

    def failure(self, kind: type[BackendError], what: str, step: str = "") -> BackendError:
        """Return an error that quotes the complaints.

        Args:
            kind: Its class; if TensorRT complains of memory it is a DeviceMemoryError instead.
            what: What could not be done.
            step: What to do about it, unless it is memory.
        """
        reason = self.log.text()
        if _FULL.search(reason):
            kind, step = DeviceMemoryError, "use smaller batches, or free memory of other programs"
        return kind(f"{what}: {reason}" + (f"; {step}" if step else ""))

    def _no_start(self, error: TypeError) -> BackendError:
        return BackendError(
            f"TensorRT {self.version} does not start: {self.log.text()} ({error}); check the "
            "driver with `klieg doctor`"
        )


def open_tensorrt() -> TensorRT:
    """Import TensorRT.

    Raises:
        BackendError: it is not installed, or of a version that klieg does not know.
    """
    try:
        package = importlib.import_module("tensorrt")
    except ImportError as error:
        raise BackendError(
            f"TensorRT cannot be imported ({error}): pip install 'klieg[tensorrt]'"
        ) from error
    version = str(package.__version__)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    major, minor = map(int, numbers.groups()) if numbers else (0, 0)
    if major not in MAJORS or (major, minor) < OLDEST:
        raise BackendError(
            f"TensorRT {version} is installed, klieg works with {' and '.join(map(str, MAJORS))} "
            f"from {'.'.join(map(str, OLDEST))} on: pip install 'klieg[tensorrt]'"
        )
    return _opened(package)


@cache
def process_log(module: ModuleType) -> Log:
    """Return the one log of a package, `tensorrt` or its RTX edition: see `Log`."""
    return Log(cast(Package, module))


@cache
def _opened(module: ModuleType) -> TensorRT:
    package = cast(Package, module)
    return TensorRT(package, package.__version__, process_log(module))
