"""Tables of results: rows that survive a crash, and the CSV files that people read."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from klieg.errors import KliegError
from klieg.storage.atomic import atomic_path


class Tables:
    """Rows of several tables in one SQLite file, which a run that was killed goes on with.

    What one call of `add` is given is there as a whole or not at all.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, Sequence[str]],
        *,
        exported: Path,
        error: type[KliegError],
    ) -> None:
        """Open the file, or create it.

        Args:
            path: The SQLite file; its folder must exist.
            columns: The columns of each table.
            exported: A CSV file that is written from these rows, and so never there before them.
            error: What is raised.

        Raises:
            KliegError: an older klieg kept its rows in the CSV file, or the file cannot be used.
        """
        if exported.exists() and not path.exists():
            raise error(
                f"{path.parent} holds results of an older klieg, {exported.name} without "
                f"{path.name}, which cannot be continued: use another folder"
            )
        self._path, self._error = path, error
        with self._open() as database:
            for table, names in columns.items():
                database.execute(f'CREATE TABLE IF NOT EXISTS "{table}" ({_quoted(names)})')

    def add(self, rows: Mapping[str, Iterable[Sequence[object]]]) -> None:
        """Append rows to tables, in one transaction.

        Raises:
            KliegError: they cannot be written; what was added before is complete.
        """
        with self._open() as database:
            for table, several in rows.items():
                for row in several:
                    places = ", ".join("?" * len(row))
                    database.execute(f'INSERT INTO "{table}" VALUES ({places})', row)

    def rows(
        self, table: str, columns: Sequence[str], **equal: object
    ) -> Iterator[tuple[Any, ...]]:
        """Yield rows in the order in which they were added.

        Args:
            table: Name of the table.
            columns: The columns wanted.
            **equal: Values that the rows must have.
        """
        condition = " AND ".join(f'"{name}" = ?' for name in equal) or "1"
        with self._open() as database:
            yield from database.execute(
                f'SELECT {_quoted(columns)} FROM "{table}" WHERE {condition} ORDER BY rowid',
                tuple(equal.values()),
            )

    def export(self, table: str, columns: Sequence[str], path: Path) -> None:
        """Write columns of a table to a CSV file, which appears complete or not at all."""
        write_rows(path, columns, self.rows(table, columns))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for one transaction: none is left open when a process forks."""
        try:
            with closing(sqlite3.connect(self._path)) as database, database:
                yield database
        except sqlite3.Error as error:
            raise self._error(
                f"cannot use {self._path}: {error}; what was done before is complete, the same "
                "call goes on from there"
            ) from error


def check_configuration(
    path: Path, configuration: Mapping[str, Any], *, work: str, error: type[KliegError]
) -> None:
    """Write the configuration of a folder, or compare it with the one that the folder has.

    Args:
        path: The JSON file.
        configuration: What decides the results.
        work: What the folder is for, in the message: "an evaluation".
        error: What is raised.

    Raises:
        KliegError: the folder has another configuration; the message names what differs.
        OSError: the file cannot be read or written.
    """
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(configuration, indent=1) + "\n", encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    given = json.loads(json.dumps(configuration))  # as it looks after it was written
    other = [
        name for name in sorted(found.keys() | given.keys()) if found.get(name) != given.get(name)
    ]
    if other:
        was, now = (_short(one.get(other[0])) for one in (found, given))
        raise error(
            f"{path.parent} holds {work} with other {', '.join(other)} (for {other[0]} {was}, "
            f"now {now}): use another folder, or the same options to go on"
        )


def write_rows(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], *, end: str = "\n"
) -> None:
    """Write a CSV file, complete or not at all.

    Args:
        path: The file.
        columns: The first line.
        rows: The other lines.
        end: Of each line.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as lines,
    ):
        writer = csv.writer(lines, lineterminator=end)
        writer.writerow(columns)
        writer.writerows(rows)


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows to a CSV file under all columns that any of them has, complete or not at all."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    values = ([row.get(name, "") for name in columns] for row in rows)
    write_rows(path, columns, values, end="\r\n")


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
