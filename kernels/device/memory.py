"""Buffers, modules and kernels: what a device hands out and knows again."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

from klieg.errors import DeviceError

UNASKED_SHARED: Final = 48 * 1024
"""Bytes of dynamic shared memory that a block gets without asking."""

_FORKED: Final[list[Callable[[], None]]] = []
"""Memory dropped in a forked process, where it cannot be freed: the parent still owns it."""


class Home(Protocol):
    """The device that buffers, modules and kernels belong to."""

    @property
    def label(self) -> str:
        """Its name, such as "cuda.core:0"."""

    @property
    def index(self) -> int:
        """Number of the GPU."""

    @property
    def stream(self) -> int:
        """Handle of the stream that writes its memory."""

    @property
    def usable(self) -> bool:
        """Whether it is neither closed nor failed."""

    def function(self, module: DeviceModule, name: str) -> Any:
        """Return the package's handle of a function."""


class DeviceBuffer:
    """Memory that is given back, in the order of the stream, when nothing refers to it."""

    def __init__(self, home: Home, pointer: int, size: int, free: Callable[[], None]) -> None:
        self.home: Final = home
        self.pointer: Final = pointer
        self.size: Final = size
        self._finalizer = weakref.finalize(self, _free, os.getpid(), free)

    @property
    def stream(self) -> int | None:
        """Handle of the stream that writes the memory, None once the device is closed."""
        return self.home.stream if self.home.usable else None

    def release(self) -> None:
        """Give the memory back now, although the buffer may still be referred to."""
        self._finalizer()


class DeviceModule:
    """Code that was loaded on one device."""

    def __init__(self, home: Home, library: Any) -> None:
        self.home: Final = home
        self.library = library
        self._kernels: dict[str, DeviceKernel] = {}

    def kernel(self, name: str) -> DeviceKernel:
        """See `klieg.kernels.device.Module`."""
        if name not in self._kernels:
            self._kernels[name] = DeviceKernel(self, name, self.home.function(self, name))
        return self._kernels[name]

    def unload(self) -> None:
        """Drop the code and everything that refers to it."""
        for kernel in self._kernels.values():
            kernel.function = None
        self._kernels.clear()
        self.library = None


class DeviceKernel:
    """A function of a module."""

    def __init__(self, module: DeviceModule, name: str, function: Any) -> None:
        self.home: Final = module.home
        self.name: Final = name
        self.function = function
        self.shared = UNASKED_SHARED
        """Bytes of dynamic shared memory that it may be launched with."""


def check_home(thing: object, device: Home, what: str) -> None:
    """Refuse a buffer, an array on one, or a kernel of another device; unknown owners pass.

    Raises:
        DeviceError: it belongs to another device.
    """
    home = getattr(getattr(thing, "owner", thing), "home", device)
    if home is not device:
        raise DeviceError(
            f"the {what} belongs to device {home.label}, but device {device.label} was asked to "
            "use it: allocate, load and launch on the same device"
        )


def own_kernel(kernel: object, device: Home) -> DeviceKernel:
    """Return a kernel as one of this device.

    Raises:
        DeviceError: it belongs to another device.
    """
    if not isinstance(kernel, DeviceKernel):
        raise DeviceError(
            f"got a {type(kernel).__name__} for a kernel, expected one loaded on device "
            f"{device.label}: load the code there"
        )
    check_home(kernel, device, "kernel")
    return kernel


def _free(pid: int, free: Callable[[], None]) -> None:
    if os.getpid() == pid:
        free()
    else:
        _FORKED.append(free)
