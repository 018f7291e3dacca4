"""klieg explain: maps for photos."""

from __future__ import annotations

import glob
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klieg.cli.failure import reported
from klieg.cli.parameters import Assignment
from klieg.methods.table import METHODS

if TYPE_CHECKING:
    from klieg.errors import ImageError
    from klieg.explainer import Explainer
    from klieg.explanation import Explanation
    from klieg.saving import SavedResult

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


@click.command(short_help="Explain photos.")
@click.argument("explainer", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the results."
)
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="cameras",
    show_default=True,
    metavar="NAME",
    help=", ".join(METHODS) + ".",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    type=Assignment(),
    help="A number that the method takes, such as masks=500. Repeatable.",
)
@click.option(
    "--target",
    multiple=True,
    help="Class to explain, number or name. Repeatable: every photo is explained for each. "
    "Default: the predicted class.",
)
@click.option("--scales", help="Image sizes of CAMERAS, such as 224,324,424.")
@click.option(
    "--fit",
    type=click.Choice(["crop", "letterbox", "stretch"]),
    default="crop",
    show_default=True,
    help="How a photo becomes square.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Default: all cores.")
@click.option("--provider", multiple=True, help="ONNX Runtime execution provider. Default: CPU.")
def explain(
    explainer: Path,
    images: tuple[str, ...],
    output: Path,
    method: str,
    options: tuple[tuple[str, float], ...],
    target: tuple[str, ...],
    scales: str | None,
    fit: Any,
    batch_size: int,
    threads: int | None,
    provider: tuple[str, ...],
) -> None:
    """Explain IMAGES (files, folders or glob patterns) with the file EXPLAINER.

    Writes to the output folder, for every photo and class, an overlay PNG and the map on the
    photo's pixels (.npy), and one line in results.jsonl. A photo that cannot be read is reported,
    the others go on, and the exit code is 1.
    """
    files = _files(images)
    classes = [int(one) if one.isdigit() else one for one in target]
    with reported():
        from klieg.explainer import Explainer

        with Explainer(explainer, providers=provider or None, threads=threads) as opened:
            failures = _explain_all(
                opened,
                files,
                output,
                method=method,
                target=[classes] * len(files) if classes else None,
                scales=None if scales is None else _sizes(scales),
                fit=fit,
                batch_size=batch_size,
                **dict(options),
            )
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    click.echo(f"explained {len(files) - len(failures)} of {len(files)} photos: see {output}")
    if failures:
        raise SystemExit(1)


def _explain_all(
    explainer: Explainer, files: Sequence[Path], output: Path, **options: Any
) -> list[ImageError]:
    """Write the results of all readable files and return the errors of the others."""
    from klieg.atomic import atomic_path
    from klieg.saving import ResultFolder

    failures: list[ImageError] = []
    explanations = explainer.explain_iter(files, on_image_error=failures.append, **options)
    folder = ResultFolder(output)
    with (
        atomic_path(output / "results.jsonl") as temporary,
        temporary.open("w", encoding="utf-8") as lines,
        click.progressbar(length=len(files), label="explaining", show_pos=True) as bar,
    ):
        start, photo = time.perf_counter(), None
        for explanation in explanations:
            seconds = (time.perf_counter() - start) / len(explanation)
            for i, name in enumerate(explanation.names):
                record = _record(explanation, i, folder.save(explanation, i), seconds)
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                bar.update(int(name != photo))
                photo = name
            start = time.perf_counter()
        bar.update(len(failures))
    return failures


def _record(
    explanation: Explanation, i: int, saved: SavedResult, seconds: float
) -> dict[str, object]:
    """Return one line of results.jsonl."""
    index = int(explanation.targets[i])
    pairs = zip(explanation.scales, explanation.scales_used[i], strict=True)
    return {
        "file": explanation.names[i],
        "class": index,
        "name": explanation.class_name(index),
        "probability": round(float(explanation.probabilities[i, index]), 6),
        "scales_used": [scale for scale, used in pairs if used],
        "degenerate": bool(explanation.degenerate[i]),
        "seconds": round(seconds, 4),
        "overlay": saved.overlay.name,
        "map": saved.saliency.name,
    }


def _files(patterns: Sequence[str]) -> list[Path]:
    """Return the files that paths, folders and glob patterns name, in order and without repeats."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.exists() or not glob.has_magic(pattern):
            matches = [path]
        else:
            matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
        if not matches:
            raise click.ClickException(f"{pattern} names no photos ({', '.join(SUFFIXES)})")
        found.update(dict.fromkeys(matches))
    return list(found)


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of sizes like 224,324,424") from None
