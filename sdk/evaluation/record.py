"""What an evaluation has measured so far, in files that only grow.

A run that is killed leaves half a batch at the end of some of them. `progress.json` is replaced
after every batch and says how long each file was then; what stands behind is cut off before the
run goes on, so that it ends with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import EvaluationError
from klieg.evaluation.datasets.annotated import Problem
from klieg.storage.atomic import atomic_path
from klieg.storage.claim import claim

SCORES, PROBLEMS, PROGRESS, CONFIGURATION = (
    "scores.csv",
    "problems.csv",
    "progress.json",
    "configuration.json",
)
KEYS: Final = ("photo", "image", "category", "class", "method")
"""The first columns of scores.csv; the metrics follow."""
BLOCK: Final = struct.Struct("<III")
"""Before each block of terms: rows, terms in a row, compressed bytes."""


@dataclass(frozen=True)
class Row:
    """One line of scores.csv: what one method got for one question."""

    photo: int
    image: str
    category: str
    target: int
    method: str
    scores: Mapping[str, float]


class Record:
    """The folder of an evaluation."""

    def __init__(
        self,
        folder: Path,
        configuration: Mapping[str, Any],
        *,
        metrics: Sequence[str],
        pooled: Sequence[str],
    ) -> None:
        """Open a folder, new or of the same evaluation.

        Args:
            folder: Created if missing.
            configuration: What decides the scores; must be that of the folder.
            metrics: Names of the columns.
            pooled: Names of the metrics whose terms are kept.

        Raises:
            EvaluationError: the folder is that of another evaluation, or cannot be written.
        """
        self._folder, self._metrics = folder, tuple(metrics)
        self._photos, self._sizes = 0, dict[str, int]()
        self._names = (SCORES, PROBLEMS, *(f"{name}.terms" for name in pooled))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._claim(configuration)
            self._recover()
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def photos(self) -> int:
        """Number of photos of the data set that are done."""
        return self._photos

    def add(
        self,
        photos: int,
        rows: Sequence[Row],
        terms: Mapping[str, Sequence[NDArray[Any]]],
        problems: Sequence[Problem],
    ) -> None:
        """Append what one batch gave, and make it count.

        Args:
            photos: Number of photos done after this batch.
            rows: Lines for scores.csv, method by method.
            terms: Per pooled metric one array [n, K] per method, in the order of the rows.
            problems: What was wrong with photos of the batch.

        Raises:
            EvaluationError: the folder cannot be written.
        """
        parts = {
            SCORES: _lines(map(self._line, rows)),
            PROBLEMS: _lines([(one.kind, one.where, one.detail) for one in problems]),
        }
        for name, arrays in terms.items():
            parts[f"{name}.terms"] = b"".join(map(_block, arrays))
        try:
            for name, part in parts.items():
                with (self._folder / name).open("ab") as file:
                    file.write(part)
                self._sizes[name] += len(part)
            self._photos = photos
            self._save_progress()
        except OSError as error:
            raise self._unwritable(error) from error

    def rows(self) -> Iterator[Row]:
        """Read scores.csv line by line."""
        with (self._folder / SCORES).open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                scores = {name: float(line[name] or "nan") for name in self._metrics}
                yield Row(
                    int(line["photo"]),
                    line["image"],
                    line["category"],
                    int(line["class"]),
                    line["method"],
                    scores,
                )

    def terms(self, metric: str) -> Iterator[NDArray[np.float64]]:
        """Read the terms of a pooled metric, one array [n, K] per batch and method."""
        with (self._folder / f"{metric}.terms").open("rb") as file:
            while head := file.read(BLOCK.size):
                rows, width, size = BLOCK.unpack(head)
                data = np.frombuffer(zlib.decompress(file.read(size)), dtype=np.float32)
                yield data.reshape(rows, width).astype(np.float64)

    def problems(self) -> Iterator[Problem]:
        """Read the problems that were found in photos."""
        with (self._folder / PROBLEMS).open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                yield Problem(line["kind"], line["where"], line["detail"])  # type: ignore[arg-type]

    def _line(self, row: Row) -> list[object]:
        scores = (
            "" if np.isnan(row.scores[name]) else f"{row.scores[name]:.9g}"
            for name in self._metrics
        )
        return [row.photo, row.image, row.category, row.target, row.method, *scores]

    def _claim(self, configuration: Mapping[str, Any]) -> None:
        other = claim(self._folder / CONFIGURATION, configuration)
        for name, (found, given) in other.items():
            raise EvaluationError(
                f"{self._folder} holds an evaluation with other {', '.join(other)} (for {name} "
                f"{_short(found)}, now {_short(given)}): use another folder, or the same options "
                "to go on"
            )

    def _recover(self) -> None:
        """Read how far the run was, and cut off what was written after that."""
        path = self._folder / PROGRESS
        if path.exists():
            progress = json.loads(path.read_text(encoding="utf-8"))
            self._photos, self._sizes = progress["photos"], progress["bytes"]
            for name, size in self._sizes.items():
                with (self._folder / name).open("r+b") as file:
                    file.truncate(size)
            return
        heads = {
            SCORES: _lines([[*KEYS, *self._metrics]]),
            PROBLEMS: _lines([("kind", "where", "detail")]),
        }
        for name in self._names:
            (self._folder / name).write_bytes(heads.get(name, b""))
            self._sizes[name] = len(heads.get(name, b""))
        self._save_progress()

    def _save_progress(self) -> None:
        with atomic_path(self._folder / PROGRESS) as temporary:
            progress = {"photos": self._photos, "bytes": self._sizes}
            temporary.write_text(json.dumps(progress) + "\n", encoding="utf-8")

    def _unwritable(self, error: OSError) -> EvaluationError:
        return EvaluationError(
            f"cannot write to {self._folder}: {error.strerror or error}; what was done before "
            "is complete, the same command goes on from there"
        )


def _lines(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _block(terms: NDArray[Any]) -> bytes:
    data = zlib.compress(np.ascontiguousarray(terms, dtype="<f4").tobytes(), level=1)
    return BLOCK.pack(*terms.shape, len(data)) + data


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
