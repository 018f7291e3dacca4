"""klieg explain: maps for photos."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import klieg.cli.options as shared
from klieg.cli.engine import engine_options, open_explainer
from klieg.cli.parameters import Known
from klieg.model_file.methods import METHODS, check_takes_target, find_method
from klieg.storage.atomic import atomic_path

if TYPE_CHECKING:
    from klieg.errors import ImageError
    from klieg.explainer import Explainer
    from klieg.explanation import Explanation
    from klieg.images.intake import Photos
    from klieg.maps.regions import Rule
    from klieg.results.folder import SavedResult
    from klieg.results.formats import Result


@click.command(short_help="Explain photos.")
@shared.EXPLAINER
@shared.IMAGES
@shared.output("the results")
@click.option(
    "--method",
    "methods",
    type=Known(find_method),
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
    "--format",
    "formats",
    multiple=True,
    default=["png", "npy"],
    show_default=True,
    metavar="NAME",
    help="What to write: png (the map over the photo), npy (the map on the photo's pixels), views, "
    "or a format of an installed package. Repeatable.",
)
@click.option(
    "--views",
    is_flag=True,
    help="Also --format views: each photo with its salient part alone, removed and inpainted.",
)
@shared.binarise("What --views counts as salient: above the map's mean, or the share that is it.")
@shared.BATCH_SIZE
@engine_options
def explain(
    explainer: Path,
    images: list[Path],
    output: Path,
    methods: tuple[str, ...],
    options: tuple[tuple[str, float], ...],
    target: tuple[str, ...],
    scales: list[int] | None,
    fit: Any,
    formats: tuple[str, ...],
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
    classes = [int(one) if one.isdigit() else one for one in target]
    methods = tuple(dict.fromkeys(methods))
    formats = tuple(dict.fromkeys((*formats, "views") if views else formats))
    with open_explainer(explainer, **engine) as opened:
        from klieg.results.folder import ResultFolder

        asked = [
            _asked(opened, method, methods, dict(options), scales, classes, fit)
            for method in methods
        ]
        failures: list[ImageError] = []
        photos = opened.read(
            images,
            target=[classes] * len(images) if any(one.targeted for one in asked) else None,
            batch_size=batch_size,
            on_image_error=failures.append,
        )
        folder = ResultFolder(output, formats)
        with (
            _lines(output / "results.jsonl") as write,
            click.progressbar(length=len(images), label="explaining", show_pos=True) as bar,
        ):
            for batch in photos:
                for results, seconds in _explained(batch, asked, binarise):
                    for result, saved, took in zip(
                        results, folder.save(results), seconds, strict=True
                    ):
                        write(_record(result, saved, took))
                bar.update(len(batch.names))
            bar.update(len(failures))
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    click.echo(f"explained {len(images) - len(failures)} of {len(images)} photos: see {output}")
    if failures:
        raise SystemExit(1)


@dataclass(frozen=True)
class _Asked:
    """One of several methods, with what it takes of what was asked for."""

    explain: Callable[[Photos], Explanation]
    targeted: bool
    """True if it explains the classes asked for, False for the predicted ones."""


def _asked(
    explainer: Explainer,
    name: str,
    names: Sequence[str],
    options: Mapping[str, float],
    scales: Sequence[int] | None,
    classes: Sequence[int | str],
    fit: Any,
) -> _Asked:
    """Give a method what it takes; what none of the methods takes, it gets and refuses."""
    this = find_method(name)
    others = [find_method(other) for other in names if other != name]
    targeted = bool(classes) and (not this.class_free or all(one.class_free for one in others))
    if targeted:
        check_takes_target(name)
    elif len(classes) > 1:
        raise click.UsageError(
            f"{this.title} has one map per photo, whatever the class: ask for one --target, or "
            f"leave {name} out"
        )
    own = {
        option: value
        for option, value in options.items()
        if option in this.options or not any(option in one.options for one in others)
    }
    takes_scales = this.multi_scale or not any(one.multi_scale for one in others)
    explain = explainer.method(name, scales=scales if takes_scales else None, fit=fit, **own)
    return _Asked(explain, targeted)


def _explained(
    photos: Photos, asked: Sequence[_Asked], rule: Rule
) -> Iterator[tuple[list[Result], list[float]]]:
    """Yield the results of all methods, image by image, and the seconds that each took."""
    explanations, seconds = [], []
    for one in asked:
        start = time.perf_counter()
        explanations.append(one.explain(photos if one.targeted else photos.untargeted()))
        seconds.append((time.perf_counter() - start) / len(explanations[-1]))
    for i in range(len(explanations[0])):
        yield [explanation.result(i, rule=rule) for explanation in explanations], seconds


@contextmanager
def _lines(path: Path) -> Iterator[Callable[[dict[str, object]], None]]:
    """Write records to a file, one per line; it appears complete or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        yield lambda record: print(json.dumps(record, ensure_ascii=False), file=lines)


def _record(result: Result, saved: SavedResult, seconds: float) -> dict[str, object]:
    """Return one line of results.jsonl."""
    from klieg.results.formats import find_format

    pairs = zip(result.scales, result.scales_used, strict=True)
    record: dict[str, object] = {
        "file": result.name,
        "method": result.method,
        "class": result.target,
        "name": result.class_name,
        "probability": round(result.probability, 6),
        "scales_used": [scale for scale, used in pairs if used],
        "degenerate": result.degenerate,
        "seconds": round(seconds, 4),
    }
    record |= {find_format(form).label: path.name for form, path in saved.files.items()}
    if saved.comparison is not None:
        record["comparison"] = saved.comparison.name
    if "views" in saved.files:
        record["box"] = result.box.tolist() if result.box.any() else None
    return record
