"""Tables of results as CSV files, complete at any moment."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from klieg.storage.atomic import atomic_path


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows under all columns that any of them has; a complete file takes the place of one."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as lines,
    ):
        writer = csv.DictWriter(lines, columns)
        writer.writeheader()
        writer.writerows(rows)
