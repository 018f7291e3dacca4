"""Times what is enqueued on a GPU, without the gaps between launches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from math import ceil

from klieg.kernels.device import CudaDevice, Graph, Workspace
from klieg.kernels.device.replay import Layout

ROUNDS = 7
ROUND_SECONDS = 0.05
REPEATS = 20


class Clock:
    """Medians over graphs that repeat a piece of work; run with `Clock.device`."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self.held = 0
        """Bytes that the piece timed last allocates, without its inputs."""

    def seconds(self, enqueue: Callable[[int, Workspace], object], *, inputs: int = 1) -> float:
        """Return the time of one piece of work.

        Args:
            enqueue: Called with the number of an input and where to take memory from. Inputs take
                turns: no run finds the last one's in the cache.
            inputs: How many there are.
        """
        layouts = [Layout(self.device) for _ in range(inputs)]
        for number, layout in enumerate(layouts):
            enqueue(number, layout)
        self.device.synchronise()
        self.held = sum(buffer.size for buffer in layouts[0].buffers)
        with self.device.capture() as graph:
            for _ in range(REPEATS):  # one launch of a graph costs the host more than a kernel
                for number, layout in enumerate(layouts):
                    layout.repeat()
                    enqueue(number, layout)
        self._timed(graph, 1)
        launches = ceil(ROUND_SECONDS / self._timed(graph, 1))
        samples = [self._timed(graph, launches) / launches for _ in range(ROUNDS)]
        return statistics.median(samples) / (REPEATS * inputs)

    def _timed(self, graph: Graph, launches: int) -> float:
        start = time.perf_counter()
        for _ in range(launches):
            graph.launch()
        self.device.synchronise()
        return time.perf_counter() - start
