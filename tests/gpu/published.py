"""CAMERAS as published, in torch on a GPU: every channel of every scale at full size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any


def published_seconds(
    grids: Sequence[tuple[int, int]], channels: int, size: int, batch: int
) -> tuple[float, int]:
    """Return seconds and peak bytes of the published fusion of a batch, image by image."""
    import torch
    from torch.nn import functional

    scales = [[torch.randn(1, channels, *grid, device="cuda") for grid in grids] for _ in range(2)]

    def fuse() -> None:
        means = []
        for tensors in scales:
            enlarged = [
                functional.interpolate(t, (size, size), mode="bilinear", align_corners=False)
                for t in tensors
            ]
            means.append(reduce(torch.add, enlarged) / len(enlarged))
        (means[0] * means[1]).sum(dim=1)

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    taken = batch * median_seconds(fuse)
    return taken, torch.cuda.max_memory_allocated() - before


def median_seconds(work: Callable[[], Any], rounds: int = 5) -> float:
    """Return the median time of work on torch's stream, waited for."""
    import torch

    work()
    torch.cuda.synchronize()
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)
