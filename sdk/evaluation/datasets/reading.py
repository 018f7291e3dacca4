"""Readers of the files of data sets: tables, lists, and grey images of object numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

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


def read_labels(path: Path) -> NDArray[Any]:
    """Return the values of a grey PNG or BMP file: [H, W], 8 or 16 bits, just as they are stored.

    Raises:
        InputError: there is no such file, it is damaged, or it holds colours.
    """
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise InputError(f"cannot read the mask {path}: {error.strerror or error}") from error
    try:
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"cannot decode the mask {path}: {error}") from error
    if values is None:
        raise InputError(f"cannot decode the mask {path}: it is damaged or no PNG file")
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]  # grey that was stored as RGB
    if values.ndim != 2:
        raise InputError(f"the mask {path} holds colours, expected a grey file of object numbers")
    return np.asarray(values)
