"""A CPU in a GPU's place that records launches, as CUDA graphs do, and whose memory can run out."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from helpers.cpu_device import CpuDevice
from klieg.errors import DeviceMemoryError


class RecordingCpu(CpuDevice):
    """Collects launches while it records, instead of running them."""

    recording: Any = None
    graphs = 0
    held, limit = 0, 10**9  # bytes

    def allocate(self, size: int) -> Any:
        assert self.recording is None
        if self.held + size > self.limit:
            raise DeviceMemoryError(f"{size} bytes asked for")
        buffer = super().allocate(size)
        self.held += size
        weakref.finalize(buffer, self._free, size)
        return buffer

    def _free(self, size: int) -> None:
        self.held -= size

    def copy_in(self, source: np.ndarray, destination: Any) -> None:
        assert self.recording is None
        super().copy_in(source, destination)

    def copy_across(self, source: Any, destination: Any) -> None:
        assert self.recording is None
        super().copy_across(source, destination)

    def launch(self, *arguments: Any, **options: Any) -> None:
        if self.recording is None:
            super().launch(*arguments, **options)
        else:
            self.recording.append((arguments, options))

    @contextmanager
    def capture(self) -> Iterator[Any]:
        launches: list[Any] = []
        self.recording = launches
        device = self

        class Graph:
            def launch(self) -> None:
                device.graphs += 1
                for arguments, options in launches:
                    device.launch(*arguments, **options)

        try:
            yield Graph()
        finally:
            self.recording = None
