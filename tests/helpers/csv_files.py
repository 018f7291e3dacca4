"""CSV files read back."""

from __future__ import annotations

import csv
from pathlib import Path


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows as texts."""
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def csv_numbers(path: Path) -> list[dict[str, float]]:
    """Return the rows of a table of numbers."""
    return [{name: float(text) for name, text in row.items()} for row in csv_rows(path)]
