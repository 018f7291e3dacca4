"""Time of each kernel against the floor that bytes and operations set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from published import published_seconds

from clock import Clock
from klieg.kernels.cuda.contract import Contraction, largest_tile, touched_cells
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.normalize import normalize
from klieg.kernels.cuda.pyramid import pyramid
from klieg.kernels.device import CudaDevice, Workspace
from klieg.kernels.device.array import DeviceArray
from rows import Row, Skipped

RESNET50 = [(n, n) for n in (7, 11, 14, 17, 20, 23, 26, 29)]
CHANNELS, SIZE = 2048, 224


@dataclass(frozen=True)
class Ceilings:
    """What the GPU does at best, measured with torch."""

    bandwidth: float
    """Bytes per second of a copy, read and written both counted."""
    rates: dict[str, float]
    """Operations per second of a large matrix product, by type."""


def rows(device: CudaDevice, name: str) -> Iterator[Row]:
    """Measure everything."""
    ceilings = measured_ceilings()
    yield Row("copy bandwidth, torch", f"{ceilings.bandwidth / 1e12:.2f} TB/s")
    for kind, rate in ceilings.rates.items():
        yield Row(f"matrix product, torch, {kind}", f"{rate / 1e12:.0f} TFLOP/s")
    clock = Clock(device)
    kernels = Kernels(clock.device)
    yield from _elementwise(kernels, clock, ceilings)
    for batch in (1, 16):
        yield from _contractions(kernels, clock, ceilings, batch)


def measured_ceilings() -> Ceilings:
    """Return the ceilings of the GPU."""
    try:
        import torch
    except ImportError as error:
        raise Skipped("torch is not installed: it measures the ceilings") from error
    if not torch.cuda.is_available():
        raise Skipped("this torch sees no GPU: it measures the ceilings")

    def seconds(work: Any) -> float:
        samples = []
        for _ in range(12):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            samples.append(start.elapsed_time(end) / 1e3)
        return float(np.median(samples[2:]))

    source = torch.randn(2**29, device="cuda")  # 2 GiB
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / seconds(partial(target.copy_, source))
    del source, target
    rates = {}
    torch.backends.cuda.matmul.allow_tf32 = False
    for dtype in (torch.float32, torch.float16):
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        rates[str(dtype).removeprefix("torch.")] = (
            2 * 8192**3 / seconds(partial(torch.matmul, a, b))
        )
    torch.cuda.empty_cache()
    return Ceilings(bandwidth, rates)


def _elementwise(kernels: Kernels, clock: Clock, ceilings: Ceilings) -> Iterator[Row]:
    """Measure batches of 16, and batches that leave the caches, where those do not."""
    generator = np.random.default_rng(0)
    device, batch, many = clock.device, 16, 1024

    def random(*shape: int) -> DeviceArray:
        return DeviceArray.of(device, generator.standard_normal(shape, dtype=np.float32))

    photos = DeviceArray.of(
        device, generator.integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)
    )
    raw, many_raw = random(batch, SIZE, SIZE), random(many, SIZE, SIZE)
    for what, moved, work in (
        (
            f"pyramid, {batch} x uint8 {SIZE} to 924 px",
            photos.size + batch * 3 * 924**2 * 4,
            lambda _, memory: pyramid(kernels.within(memory), photos, 924),
        ),
        (
            f"pyramid, {batch} x uint8 {SIZE} to 324 px",
            photos.size + batch * 3 * 324**2 * 4,
            lambda _, memory: pyramid(kernels.within(memory), photos, 324),
        ),
        (
            f"normalize, {batch} x {SIZE} px",
            2 * raw.size,
            lambda _, memory: normalize(kernels.within(memory), raw, masks=False),
        ),
        (
            f"normalize, {many} x {SIZE} px (read twice)",
            3 * many_raw.size,
            lambda _, memory: normalize(kernels.within(memory), many_raw, masks=False),
        ),
    ):
        taken = clock.seconds(work)
        share = moved / taken / ceilings.bandwidth
        yield Row(
            what,
            f"{moved / 1e6:.1f} MB in {taken * 1e6:.1f} us, {share:.0%} of copy bandwidth",
            "at least 60 %",
            share >= 0.6,
        )


def _contractions(kernels: Kernels, clock: Clock, ceilings: Ceilings, batch: int) -> Iterator[Row]:
    published, their_memory = published_seconds(RESNET50, CHANNELS, SIZE, batch)
    tile = largest_tile(RESNET50, (SIZE, SIZE))
    for kind, element, rate in (
        ("float32", 4, "float16"),
        ("exact", 4, "float32"),
        ("float16", 2, "float16"),
    ):
        inputs = 4 if batch == 1 else 1
        scales = [_random_scales(clock, batch, kind) for _ in range(inputs)]
        used = DeviceArray.of(clock.device, np.ones((batch, len(RESNET50)), dtype=np.int32))

        def work(
            number: int, memory: Workspace, scales: Any = scales, used: Any = used, kind: str = kind
        ) -> None:
            contraction = Contraction(
                kernels.within(memory), size=(SIZE, SIZE), exact=kind == "exact"
            )
            for activation, gradient in scales[number]:
                contraction.add(activation, gradient)
            contraction.fuse(used)

        taken = clock.seconds(work, inputs=inputs)
        values = 2 * batch * sum(prod(grid) for grid in RESNET50) * CHANNELS
        moved = values * element
        flops = batch * gram_flops(tile)
        floor = max(moved / ceilings.bandwidth, flops / ceilings.rates[rate])
        # Read, written channels last as they will be multiplied, and read again.
        packed = values * (element + 2 * (4 if kind == "exact" else 2)) / ceilings.bandwidth
        yield Row(
            f"contract, batch {batch}, {kind}",
            f"{moved / 1e6:.0f} MB, {flops / 1e9:.1f} GFLOP, floor {floor * 1e6:.0f} us (with "
            f"packing {packed * 1e6:.0f} us), {taken * 1e6:.0f} us, {taken / floor:.1f} times",
            "at most 3 times",
            taken <= 3 * floor if kind != "exact" else None,
        )
        if kind != "float16":
            memory = (clock.held + moved) / (batch * their_memory)  # theirs is of one image
            wanted = kind == "float32"
            yield Row(
                f"contract, batch {batch}, {kind}, against the published form in torch",
                f"{published / taken:.0f} times faster, {memory:.1%} of its memory",
                "30 times, 5 %" if wanted else "",
                (published >= 30 * taken and memory < 0.05) if wanted else None,
            )
        del scales, work


def gram_flops(tile: int) -> int:
    """Return the operations of all Gram matrices of one map."""
    cells = touched_cells(RESNET50, (SIZE, SIZE), tile)
    return int(2 * CHANNELS * (cells.astype(np.int64) ** 2).sum())


def _random_scales(clock: Clock, batch: int, kind: str) -> list[tuple[DeviceArray, DeviceArray]]:
    """Return activations and gradients of all scales, random: zeros would run faster."""
    import torch

    dtype = torch.float16 if kind == "float16" else torch.float32
    scales = []
    for grid in RESNET50:
        pair = []
        for _ in range(2):
            tensor = torch.randn(batch, CHANNELS, *grid, device="cuda", dtype=dtype)
            kind_of = np.dtype(np.float16 if kind == "float16" else np.float32)
            pair.append(DeviceArray(tensor.data_ptr(), tuple(tensor.shape), kind_of, tensor))
        scales.append((pair[0], pair[1]))
    torch.cuda.synchronize()
    return scales
