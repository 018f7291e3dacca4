"""Reads tables: CSV files with a line of titles, and plain lists."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from klieg.errors import InputError


def read_table(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Yield the rows of a CSV file, each with the number of its line.

    Args:
        path: The file.
        columns: Titles that must be there. The first one, which names the photo, must be filled
            in every row; other values are None where a row is cut short.

    Raises:
        InputError: the file cannot be read, lacks a column, or a row names no photo.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            missing = [name for name in columns if name not in (rows.fieldnames or [])]
            if missing:
                raise InputError(
                    f"{path} has the columns {list(rows.fieldnames or [])}, expected also {missing}"
                )
            for row in rows:
                if not row[columns[0]]:
                    raise InputError(
                        f"{path}, line {rows.line_num}: {columns[0]} is empty, expected a name"
                    )
                yield rows.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path} as a table: {error}") from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, without ends and blank ones at the end.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
