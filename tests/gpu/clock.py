"""Times what is enqueued on a GPU, without the gaps between launches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from klieg.kernels.device import CudaDevice
from klieg.methods.replay import Layout, ReplayDevice

ROUNDS = 7


class Clock:
    """Medians over graphs that repeat a piece of work; run with `Clock.device`."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = ReplayDevice(device)
        self.held = 0
        """Bytes that the piece timed last allocates, without its inputs."""

    def seconds(self, enqueue: Callable[[int], object], *, inputs: int = 1) -> float:
        """Return the time of one piece of work.

        Args:
            enqueue: Called with the number of an input, which take turns: no run finds the last
                one's in the cache.
            inputs: How many there are.
        """
        layouts = [Layout() for _ in range(inputs)]
        for number, layout in enumerate(layouts):
            with self.device.laid_out(layout):
                enqueue(number)
        self.device.synchronise()
        self.held = sum(buffer.size for buffer in layouts[0].buffers)
        with self.device.inner.capture() as graph:
            for number, layout in enumerate(layouts):
                with self.device.laid_out(layout):
                    enqueue(number)
        graph.launch()
        self.device.synchronise()
        samples = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            count = 0
            while count < 3 or time.perf_counter() - start < 0.05:
                graph.launch()
                count += 1
            self.device.synchronise()
            samples.append((time.perf_counter() - start) / (count * inputs))
        return statistics.median(samples)
