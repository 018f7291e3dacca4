"""klieg bench: what an explanation costs on this machine, beside the bare classifier."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import numpy as np
from numpy.typing import NDArray

from klieg.cli.engine import engine_options, open_explainer

if TYPE_CHECKING:
    from klieg.explainer import Explainer

Name = TypeVar("Name", str, tuple[str, int])

TUNED_ALLOCATOR: Final = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
}
"""glibc keeps freed memory: the published form spends most of its time in page faults otherwise."""


@click.command(short_help="Measure what an explanation costs here.")
@click.argument("explainer", type=click.Path(path_type=Path))
@click.option(
    "--classifier",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The unmodified classifier as .onnx, to compare with. "
    "Default: the logits alone of the explainer itself.",
)
@click.option(
    "--published",
    metavar="SOURCE",
    help="Also run CAMERAS' published form in torch on this classifier "
    "(a SOURCE of `klieg export`).",
)
@click.option("--layer", help="The layer for --published. Default: the last feature map.")
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Images of the larger batch.",
)
@engine_options
def bench(
    explainer: Path,
    classifier: Path | None,
    published: str | None,
    layer: str | None,
    repeat: int,
    batch_size: int,
    **engine: Any,
) -> None:
    """Measure the explainer file EXPLAINER: one image, every scale counted.

    Times are the best of all repeats, taken in turn; read the ratios, not the seconds. With
    --device, from photos to maps on the GPU beside the passes alone, of one image and of a batch.
    """
    if engine["device"] is not None:
        if classifier or published:
            raise click.UsageError(
                "--classifier and --published compare on the processor: leave them out, or "
                "leave out --device"
            )
        from klieg.cli.bench_on_device import bench_on_device

        bench_on_device(
            explainer, batch_size=batch_size, timed=partial(_timed, repeat=repeat), **engine
        )
        return
    with open_explainer(explainer, **engine) as opened:
        seconds, peak = _measure(opened, classifier, repeat, engine["threads"])
        sizes = opened.info.scales
        has_mask = "mask" in opened.outputs
        rates = _images_per_second(opened, repeat, batch_size) if has_mask else {}
    _print(seconds, peak, len(sizes))
    if rates:
        _print_rates(rates, batch_size)
    if published is not None:
        _print_published(published, layer, sizes, min(seconds["cameras"]), peak)


def _measure(
    explainer: Explainer, classifier: Path | None, repeat: int, threads: int | None
) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each activity in every round, and the peak memory of one map in MiB."""
    from klieg.images.batch import Batch
    from klieg.kernels.contraction import contract
    from klieg.methods.cameras import enlarge_images
    from klieg.methods.class_activation import gradcam
    from klieg.methods.masking import casm

    size, sizes = explainer.info.input_size, explainer.info.scales
    photo = _photos(1, size)
    # A class is asked for, so that every scale counts whatever the picture shows.
    explainer.explain(photo, target=0, scales=sizes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    model, target = explainer.model, np.zeros(1, dtype=np.int64)
    images = np.ascontiguousarray(photo.transpose(0, 3, 1, 2), dtype=np.float32)
    scaled = [images, *(enlarge_images(images, larger) for larger in sizes[1:])]
    results = [model(Batch.single(image, target)) for image in scaled]
    activations = [result.activation[0] for result in results]
    gradients = [result.gradient[0] for result in results]
    bare = _bare_classifier(explainer, classifier, threads)
    # Near enough to any normalisation: only the time counts.
    normalised = [np.asarray(image / 255, dtype=np.float32) for image in scaled]

    def bare_passes() -> None:
        for image in normalised:
            bare(image)

    activities: dict[str, Callable[[], object]] = {
        "bare passes": bare_passes,
        "cameras": lambda: explainer.explain(photo, target=0, scales=sizes),
        "fusion": lambda: contract(activations, gradients, (size, size)),
        "bare pass": lambda: bare(normalised[0]),
        "gradcam": lambda: gradcam(model, Batch.single(images, target), (size,)),
        "gradcam call": lambda: explainer.explain(photo, target=0, method="gradcam"),
    }
    if "mask" in explainer.outputs:
        activities["casm"] = lambda: casm(model, Batch.single(images, target), (size,))
    return _timed(activities, repeat), peak


def _images_per_second(
    explainer: Explainer, repeat: int, batch_size: int
) -> dict[str, list[float]]:
    """Return images per second from photo to map of some methods, alone and in a batch.

    CAMERAS counts every scale, as a class is asked for.
    """
    size, sizes = explainer.info.input_size, explainer.info.scales
    batches = [_photos(count, size) for count in (1, batch_size)]
    calls: dict[str, Callable[[NDArray[np.uint8]], object]] = {
        "CASM": lambda photos: explainer.explain(photos, method="casm", batch_size=batch_size),
        "Grad-CAM": lambda photos: explainer.explain(
            photos, method="gradcam", target=0, batch_size=batch_size
        ),
        f"CAMERAS, {len(sizes)} scales": lambda photos: explainer.explain(
            photos, target=0, scales=sizes, batch_size=batch_size
        ),
    }
    activities: dict[tuple[str, int], Callable[[], object]] = {
        (title, len(photos)): partial(call, photos)
        for title, call in calls.items()
        for photos in batches
    }
    best = {name: min(samples) for name, samples in _timed(activities, repeat).items()}
    return {title: [count / best[title, count] for count in (1, batch_size)] for title in calls}


def _timed(activities: Mapping[Name, Callable[[], object]], repeat: int) -> dict[Name, list[float]]:
    """Return the seconds of each activity in every round, in which they take turns."""
    seconds: dict[Name, list[float]] = {name: [] for name in activities}
    for _ in range(repeat):
        for name, activity in activities.items():
            activity()  # not counted: threads of the activity before may still spin
            start = time.perf_counter()
            activity()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _photos(count: int, size: int) -> NDArray[np.uint8]:
    """Return noise [count, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _bare_classifier(
    explainer: Explainer, classifier: Path | None, threads: int | None
) -> Callable[[NDArray[np.float32]], object]:
    """Return a function that runs the classifier alone on images [1, C, H, W]."""
    if classifier is None:
        target = np.zeros(1, dtype=np.int64)
        return lambda images: explainer.backend.run(images, target, ("logits",))
    import onnxruntime

    from klieg.backends.onnxruntime.backend import session_options

    session = onnxruntime.InferenceSession(
        str(classifier), session_options(threads), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def _print(seconds: dict[str, list[float]], peak: float, scales: int) -> None:
    best = {name: min(samples) for name, samples in seconds.items()}
    rows = [
        (f"bare classifier, {scales} scales", "bare passes", "bare passes"),
        (f"CAMERAS, {scales} scales", "cameras", "bare passes"),
        ("  of which fusion", "fusion", "bare passes"),
        ("bare classifier, 1 scale", "bare pass", "bare pass"),
        ("Grad-CAM", "gradcam", "bare pass"),
        ("  with photo to map", "gradcam call", "bare pass"),
    ]
    if "casm" in best:
        rows.append(("CASM", "casm", "bare pass"))
    click.echo(f"{'':<28}{'best':>11}{'median':>11}{'ratio':>8}")
    for title, name, unit in rows:
        median = statistics.median(seconds[name])
        ratio = best[name] / best[unit]
        click.echo(f"{title:<28}{best[name] * 1e3:>8.1f} ms{median * 1e3:>8.1f} ms{ratio:>7.2f}x")
    rest = best["cameras"] / best["bare passes"] - 1
    click.echo(f"CAMERAS costs {rest:+.1%} over the bare passes")
    click.echo(f"peak memory of this process with one map: {peak:.0f} MiB")


def _print_rates(rates: Mapping[str, Sequence[float]], batch_size: int) -> None:
    click.echo(f"{'images per second':<28}{'batch of 1':>14}{f'batch of {batch_size}':>14}")
    for title, (one, many) in rates.items():
        click.echo(f"{title:<28}{one:>14.1f}{many:>14.1f}")


def _print_published(
    source: str, layer: str | None, scales: Sequence[int], ours: float, our_peak: float
) -> None:
    """Run the published form in processes of their own and compare."""
    command = [sys.executable, "-m", "klieg.export.parity.published_cameras", source, "--scales"]
    command += map(str, scales)
    command += [] if layer is None else ["--layer", layer]
    for title, tuning in (("default allocator", {}), ("tuned allocator", TUNED_ALLOCATOR)):
        untuned = {k: v for k, v in os.environ.items() if k not in TUNED_ALLOCATOR}
        done = subprocess.run(
            command, env=untuned | tuning, capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise click.ClickException(f"the published form failed: {lines[-1]}")
        result = json.loads(done.stdout.splitlines()[-1])
        click.echo(
            f"published form in torch, {title}: {result['seconds']:.2f} s, "
            f"{result['peak_mib']:.0f} MiB: {result['seconds'] / ours:.1f} times slower, "
            f"{result['peak_mib'] / our_peak:.1f} times the memory"
        )
