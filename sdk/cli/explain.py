"""klieg explain: maps for photos."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klieg.cli import options as shared
from klieg.cli.engine import engine_options, open_explainer
from klieg.cli.failure import reported
from klieg.cli.photos import listed_files
from klieg.methods.table import METHODS

if TYPE_CHECKING:
    from klieg.errors import ImageError
    from klieg.explainer import Explainer
    from klieg.explanation import Explanation
    from klieg.maps.regions import Rule
    from klieg.results.folder import SavedResult


@click.command(short_help="Explain photos.")
@shared.EXPLAINER
@shared.IMAGES
@shared.output("the results")
@click.option(
    "--method",
    "methods",
    type=click.Choice(list(METHODS)),
    multiple=True,
    default=["cameras"],
    show_default=True,
    metavar="NAME",
    help=", ".join(METHODS) + ". Repeatable: the maps also come side by side in one picture.",
)
@shared.METHOD_OPTIONS
@click.option(
    "--target",
    multiple=True,
    help="Class to explain, number or name. Repeatable: every photo is explained for each. "
    "Default: the predicted class.",
)
@shared.SCALES
@shared.fit("crop")
@click.option(
    "--views",
    is_flag=True,
    help="Also show each photo with its salient part alone, removed and inpainted.",
)
@shared.binarise("What --views counts as salient: above the map's mean, or the share that is it.")
@shared.BATCH_SIZE
@engine_options
def explain(
    explainer: Path,
    images: tuple[str, ...],
    output: Path,
    methods: tuple[str, ...],
    options: tuple[tuple[str, float], ...],
    target: tuple[str, ...],
    scales: list[int] | None,
    fit: Any,
    views: bool,
    binarise: Rule,
    batch_size: int,
    **engine: Any,
) -> None:
    """Explain IMAGES (files, folders or glob patterns) with the file EXPLAINER.

    Writes to the output folder, for every photo, class and method, an overlay PNG and the map on
    the photo's pixels (.npy), and one line in results.jsonl. A photo that cannot be read is
    reported, the others go on, and the exit code is 1.
    """
    files = listed_files(images)
    classes = [int(one) if one.isdigit() else one for one in target]
    with reported(), open_explainer(explainer, **engine) as opened:
        failures = _explain_all(
            opened,
            files,
            output,
            methods=tuple(dict.fromkeys(methods)),
            options=dict(options),
            scales=scales,
            target=[classes] * len(files) if classes else None,
            views=binarise if views else None,
            fit=fit,
            batch_size=batch_size,
        )
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    click.echo(f"explained {len(files) - len(failures)} of {len(files)} photos: see {output}")
    if failures:
        raise SystemExit(1)


def _explain_all(
    explainer: Explainer,
    files: Sequence[Path],
    output: Path,
    *,
    methods: Sequence[str],
    options: Mapping[str, float],
    scales: Sequence[int] | None,
    target: Sequence[Sequence[int | str]] | None,
    views: Rule | None,
    **common: Any,
) -> list[ImageError]:
    """Write the results of all readable files and return the errors of the others."""
    from klieg.errors import InputError
    from klieg.results.folder import ResultFolder
    from klieg.storage.atomic import atomic_path

    failures: list[ImageError] = []
    streams = [
        explainer.explain_iter(
            files,
            method=method,
            on_image_error=failures.append if method == methods[0] else _ignore,
            **_own(method, methods, options, scales, target),
            **common,
        )
        for method in methods
    ]
    folder = ResultFolder(output)
    with (
        atomic_path(output / "results.jsonl") as temporary,
        temporary.open("w", encoding="utf-8") as lines,
        click.progressbar(length=len(files), label="explaining", show_pos=True) as bar,
    ):
        photo = None
        for timed in zip(*map(_timed, streams), strict=True):
            explanations = [explanation for explanation, _ in timed]
            if len({explanation.names for explanation in explanations}) > 1:
                raise InputError("photos changed while they were explained: run again")
            for i, name in enumerate(explanations[0].names):
                if len(explanations) == 1:
                    results = [folder.save(explanations[0], i, views=views)]
                else:
                    results = folder.compare(explanations, i, views=views)
                for (explanation, seconds), saved in zip(timed, results, strict=True):
                    record = _record(explanation, i, saved, seconds, views)
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                bar.update(int(name != photo))
                photo = name
        bar.update(len(failures))
    return failures


def _own(
    method: str,
    methods: Sequence[str],
    options: Mapping[str, float],
    scales: Sequence[int] | None,
    target: Sequence[Sequence[int | str]] | None,
) -> dict[str, Any]:
    """Return what is meant for one of several methods; what is for none of them goes to all."""
    this = METHODS[method]
    others = [METHODS[other] for other in methods if other != method]
    own: dict[str, Any] = {
        name: value
        for name, value in options.items()
        if name in this.options or not any(name in one.options for one in others)
    }
    if this.multi_scale or not any(one.multi_scale for one in others):
        own["scales"] = scales
    if not this.class_free or all(one.class_free for one in others):
        own["target"] = target
    elif target and len(target[0]) > 1:
        raise click.UsageError(
            f"{this.title} has one map per photo, whatever the class: ask for one --target, or "
            f"leave {method} out"
        )
    return own


def _timed(stream: Iterator[Explanation]) -> Iterator[tuple[Explanation, float]]:
    """Yield each explanation with the seconds that one of its maps took."""
    start = time.perf_counter()
    for explanation in stream:
        yield explanation, (time.perf_counter() - start) / len(explanation)
        start = time.perf_counter()


def _ignore(error: ImageError) -> None:
    """Drop an error that the first method has reported."""


def _record(
    explanation: Explanation, i: int, saved: SavedResult, seconds: float, views: Rule | None
) -> dict[str, object]:
    """Return one line of results.jsonl."""
    index = int(explanation.targets[i])
    pairs = zip(explanation.scales, explanation.scales_used[i], strict=True)
    record: dict[str, object] = {
        "file": explanation.names[i],
        "method": explanation.method,
        "class": index,
        "name": explanation.class_name(index),
        "probability": round(float(explanation.probabilities[i, index]), 6),
        "scales_used": [scale for scale, used in pairs if used],
        "degenerate": bool(explanation.degenerate[i]),
        "seconds": round(seconds, 4),
        "overlay": saved.overlay.name,
        "map": saved.saliency.name,
    }
    if saved.comparison is not None:
        record["comparison"] = saved.comparison.name
    if views is not None and saved.views is not None:
        box = explanation.box_on_image(i, rule=views)  # [4]
        record |= {"views": saved.views.name, "box": box.tolist() if box.any() else None}
    return record
