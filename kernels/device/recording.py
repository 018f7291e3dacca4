"""Launches recorded into a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from klieg.errors import DeviceError
from klieg.kernels.device import Argument
from klieg.kernels.device.memory import DeviceBuffer


class Recording:
    """A graph while and after it is recorded."""

    def __init__(self, buffers: list[DeviceBuffer], replay: Callable[[Any], None]) -> None:
        """Begin with every buffer that a launch could point into.

        Args:
            buffers: Held until the recording ends; afterwards only those that launches use.
            replay: Enqueues a finished graph.
        """
        self._buffers = buffers
        self._replay: Final = replay
        self._pointers: set[int] = set()
        self._graph: Any = None

    def note(self, arguments: Sequence[Argument]) -> None:
        """Remember the pointers of a recorded launch."""
        self._pointers.update(int(value) for value in arguments if isinstance(value, np.uint64))

    def finish(self, graph: Any) -> None:
        """Take the finished graph, and keep only the buffers that its launches point into."""
        self._graph = graph
        self._buffers = [
            buffer
            for buffer in self._buffers
            if any(0 <= pointer - buffer.pointer < buffer.size for pointer in self._pointers)
        ]

    def launch(self) -> None:
        """See `klieg.kernels.device.Graph`."""
        if self._graph is None:
            raise DeviceError("the graph is not recorded yet: launch it after the `with`")
        self._replay(self._graph)
