"""Photos named on the command line."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import click


def listed_files(patterns: Sequence[str]) -> list[Path]:
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
