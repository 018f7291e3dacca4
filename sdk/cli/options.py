"""Options that several commands have."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from klieg.cli.parameters import Assignment, Names, Sizes
from klieg.model_file import methods as table

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

EXPLAINER = click.argument("explainer", type=click.Path(path_type=Path))


def _listed_files(
    context: click.Context, parameter: click.Parameter, patterns: Sequence[str]
) -> list[Path]:
    """Return the files that paths, folders and glob patterns name, in order and without repeats."""
    from klieg.images.formats import image_suffixes

    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.iterdir() if p.suffix.lower() in image_suffixes())
        elif path.exists() or not glob.has_magic(pattern):
            matches = [path]
        else:
            matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
        if not matches:
            raise click.ClickException(f"{pattern} names no photos ({', '.join(image_suffixes())})")
        found.update(dict.fromkeys(matches))
    return list(found)


IMAGES = click.argument("images", nargs=-1, required=True, callback=_listed_files)
METHODS = click.option(
    "--methods", type=Names(), default="cameras", show_default=True, help="See `klieg explain`."
)
_DEFAULTS = "; ".join(
    f"{name} {' '.join(f'{option}={entry.default}' for option, entry in method.options.items())}"
    for name, method in table.METHODS.items()
    if method.options
)
METHOD_OPTIONS = click.option(
    "--option",
    "options",
    multiple=True,
    type=Assignment(),
    help=f"A number that a method takes, such as masks=500. Repeatable. Defaults: {_DEFAULTS}.",
)
SCALES = click.option("--scales", type=Sizes(), help="Image sizes of CAMERAS, such as 224,324,424.")
BATCH_SIZE = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Photos in memory at once.",
)


def output(what: str) -> Decorator:
    """Return the option for the folder of the results."""
    return click.option(
        "-o", "--output", required=True, type=click.Path(path_type=Path), help=f"Folder for {what}."
    )


def fit(default: str) -> Decorator:
    """Return the option for how a photo becomes square."""
    return click.option(
        "--fit",
        type=click.Choice(["crop", "letterbox", "stretch"]),
        default=default,
        show_default=True,
        help="How a photo becomes square.",
    )


def binarise(what: str) -> Decorator:
    """Return the option for how a map is cut."""
    return click.option(
        "--binarise",
        type=click.Choice(["mean", "quantile"]),
        default="mean",
        show_default=True,
        help=what,
    )
