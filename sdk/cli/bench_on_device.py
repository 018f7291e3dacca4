"""`klieg bench --device`: from photos to maps on a GPU, beside the bare passes there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from klieg.backends import DeviceBackend, is_device_backend
from klieg.cli.engine import open_explainer
from klieg.explainer import Explainer
from klieg.kernels.device.array import DeviceArray

Samples = dict[tuple[str, int], list[float]]
"""Seconds in every round, by what was done and the number of images."""

HOST = "CAMERAS, photos on the host"
GPU = "CAMERAS, photos on the GPU"
REPLAYED = "CAMERAS, the same replayed"
MASKS = "CASM, photos on the GPU"
PASSES = "bare passes"


def bench_on_device(
    path: Path,
    *,
    batch_size: int,
    timed: Callable[[dict[tuple[str, int], Callable[[], object]]], Samples],
    **engine: Any,
) -> None:
    """Measure one image and a batch, every scale counted, and print.

    Args:
        path: The explainer file.
        batch_size: Images of the batch.
        timed: Runs activities in turn and returns the seconds of each.
        engine: See `engine_options`.
    """
    counts = sorted({1, batch_size})
    with ExitStack() as stack:
        explainer = stack.enter_context(open_explainer(path, **engine))
        backend = explainer.backend
        if not is_device_backend(backend):
            raise click.UsageError(f"backend {engine['backend']!r} keeps nothing on a device")
        device = backend.device
        replaying = None
        if engine["backend"] == "tensorrt" and device.records:
            replaying = stack.enter_context(open_explainer(path, replay=True, **engine))
        activities: dict[tuple[str, int], Callable[[], object]] = {}
        for count in counts:
            activities |= _activities(explainer, backend, replaying, count)
        seconds = timed(activities)
        scales = explainer.info.scales
        click.echo(f"{device.name}, {len(scales)} scales of {scales[0]} to {scales[-1]} pixels")
    _print(seconds, counts)


def _activities(
    explainer: Explainer, backend: DeviceBackend, replaying: Explainer | None, count: int
) -> dict[tuple[str, int], Callable[[], object]]:
    """Return what is measured with a number of images."""
    sizes, channels = explainer.info.scales, explainer.channels
    device, generator = backend.device, np.random.default_rng(0)
    outputs = ("logits", "activation", "gradient")
    backend.check(images=count, sizes=sizes, targets=1, outputs=outputs)

    def photos(depth: int) -> NDArray[np.uint8]:
        return generator.integers(0, 256, (count, sizes[0], sizes[0], depth), dtype=np.uint8)

    # A class is asked for, so that every scale counts whatever the pictures show.
    targets = DeviceArray.of(device, np.zeros(count, dtype=np.int64))
    prepared = [
        DeviceArray.of(
            device, generator.uniform(0, 255, (count, channels, s, s)).astype(np.float32)
        )
        for s in sizes
    ]

    def passes() -> None:
        for images in prepared:
            backend.enqueue(images, targets, outputs, workspace=device)
        device.synchronise()

    def cameras(asked: Explainer, images: Any) -> Callable[[], object]:
        return partial(asked.explain, images, target=0, scales=sizes, batch_size=count)

    there: Any = DeviceArray.of(device, photos(channels))
    found: dict[tuple[str, int], Callable[[], object]] = {
        (PASSES, count): passes,
        (HOST, count): cameras(explainer, photos(3)),
        (GPU, count): cameras(explainer, there),
    }
    if replaying is not None:
        found[REPLAYED, count] = replayed = cameras(replaying, there)
        for _ in range(2):  # as it is, and recorded
            replayed()
    if "mask" in explainer.outputs:
        found[MASKS, count] = partial(explainer.explain, there, method="casm", batch_size=count)
    return found


def _print(seconds: Samples, counts: Sequence[int]) -> None:
    best = {name: min(samples) for name, samples in seconds.items()}
    _row("", [f"{count} image{'s' if count > 1 else ''}" for count in counts])
    for title in dict.fromkeys(title for title, _ in best):
        taken = {count: best[title, count] for count in counts}
        _row(title, [f"{time * 1e3:.2f} ms" for time in taken.values()])
        if title.startswith("CAMERAS"):
            over = [time / best[PASSES, count] - 1 for count, time in taken.items()]
            _row("  over the bare passes", [f"{share:+.1%}" for share in over])
        if title != PASSES:
            _row("  images per second", [f"{count / time:.1f}" for count, time in taken.items()])


def _row(title: str, cells: Sequence[str]) -> None:
    click.echo(f"{title:<32}" + "".join(f"{cell:>14}" for cell in cells))
