"""The scores of an evaluation so far, in a folder that a killed run goes on in."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import EvaluationError
from klieg.evaluation.datasets.annotated import Problem
from klieg.storage.table import Tables, check_configuration

DATABASE: Final = "record.sqlite"
SCORES, PROBLEMS, CONFIGURATION = "scores.csv", "problems.csv", "configuration.json"
KEYS: Final = ("photo", "image", "category", "class", "method")
"""The first columns of scores.csv; the metrics follow."""
PROBLEM: Final = ("kind", "where", "detail")
"""The columns of problems.csv."""


@dataclass(frozen=True)
class Row:
    """One line of scores.csv: what one method got for one question."""

    photo: int
    image: str
    category: str
    target: int
    method: str
    scores: Mapping[str, float]
    terms: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The terms [K] of each pooled metric."""


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
            EvaluationError: the folder is that of another evaluation or of an older klieg, or
                cannot be written.
        """
        self.configuration = configuration
        self._folder, self._metrics, self._pooled = folder, tuple(metrics), tuple(pooled)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_configuration(
                folder / CONFIGURATION, configuration, work="an evaluation", error=EvaluationError
            )
        except OSError as error:
            raise EvaluationError(f"cannot write to {folder}: {error.strerror or error}") from error
        self._tables = Tables(
            folder / DATABASE,
            {
                "scores": [*KEYS, *self._metrics, *map(_terms, self._pooled)],
                "problems": PROBLEM,
                "progress": ["photos"],
            },
            exported=folder / SCORES,
            error=EvaluationError,
        )
        self._photos = max(
            (photos for (photos,) in self._tables.rows("progress", ["photos"])), default=0
        )

    @property
    def photos(self) -> int:
        """Number of photos of the data set that are done."""
        return self._photos

    def add(self, photos: int, rows: Sequence[Row], problems: Sequence[Problem]) -> None:
        """Append what one batch gave.

        Args:
            photos: Number of photos done after this batch.
            rows: Scores, method by method.
            problems: What was wrong with photos of the batch.

        Raises:
            EvaluationError: the folder cannot be written; the batches before are complete.
        """
        self._tables.add(
            {
                "scores": map(self._values, rows),
                "problems": [(one.kind, one.where, one.detail) for one in problems],
                "progress": [[photos]],
            }
        )
        self._photos = photos

    def rows(self, method: str | None = None) -> Iterator[Row]:
        """Yield the rows in the order of their adding: all, or one method's with their terms."""
        pooled = () if method is None else self._pooled
        columns = [*KEYS, *self._metrics, *map(_terms, pooled)]
        for line in self._tables.rows(
            "scores", columns, **({} if method is None else {"method": method})
        ):
            values = iter(line[len(KEYS) :])
            scores = {name: float(next(values) or "nan") for name in self._metrics}
            terms = {name: _unpacked(next(values)) for name in pooled}
            photo, image, category, target, name = line[: len(KEYS)]
            yield Row(photo, image, category, target, name, scores, terms)

    def problems(self) -> Iterator[Problem]:
        """Yield the problems that were found in photos."""
        return (Problem(*line) for line in self._tables.rows("problems", PROBLEM))

    def export(self) -> None:
        """Write scores.csv and problems.csv."""
        self._tables.export("scores", [*KEYS, *self._metrics], self._folder / SCORES)
        self._tables.export("problems", PROBLEM, self._folder / PROBLEMS)

    def _values(self, row: Row) -> list[object]:
        """Return a row as it is stored, its scores as scores.csv writes them."""
        scores = (row.scores[name] for name in self._metrics)
        texts = ("" if np.isnan(score) else f"{score:.9g}" for score in scores)
        packed = (_packed(row.terms[name]) for name in self._pooled)
        return [row.photo, row.image, row.category, row.target, row.method, *texts, *packed]


def _terms(metric: str) -> str:
    """Return the name of the column of a metric's terms."""
    return f"{metric} terms"


def _packed(terms: NDArray[Any]) -> bytes:
    return zlib.compress(np.ascontiguousarray(terms, dtype="<f4").tobytes(), level=1)


def _unpacked(data: bytes) -> NDArray[np.float64]:
    return np.frombuffer(zlib.decompress(data), dtype="<f4").astype(np.float64)
