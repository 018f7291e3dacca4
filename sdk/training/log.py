"""The terms of the loss, step by step, as a CSV file that survives a restart."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from klieg.errors import CheckpointError
from klieg.storage.table import write_table


class Log:
    """A table with one line per step, in which a resumed run leaves no step twice."""

    def __init__(self, path: Path, *, done: int) -> None:
        """Open the table and drop what was written after the last checkpoint.

        Args:
            path: The CSV file.
            done: Number of steps that the checkpoint has behind it.
        """
        self._path = path
        rows = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as lines:
                table = csv.DictReader(lines)
                # The last line may have been cut off by whatever ended the run.
                rows = [
                    row for row in table if None not in row.values() and int(row["step"]) <= done
                ]
        self._columns = list(rows[0]) if rows else []
        if rows:
            write_table(path, rows)
        else:
            path.unlink(missing_ok=True)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of a step, always the same ones.

        Raises:
            CheckpointError: the disk is full; the last checkpoint is intact.
        """
        row = {"step": str(step), **{name: f"{value:.6g}" for name, value in values.items()}}
        try:
            with self._path.open("a", newline="", encoding="utf-8") as lines:
                writer = csv.DictWriter(lines, list(row))
                if not self._columns:
                    self._columns = list(row)
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise CheckpointError(f"cannot write {self._path}: {error}") from error
