"""From one line per question to scores with confidence intervals."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError
from klieg.evaluation.baselines import BASELINES
from klieg.evaluation.datasets.annotated import Dataset, Problem
from klieg.evaluation.metrics.table import METRICS, pooled_curve
from klieg.evaluation.options import EvaluationOptions
from klieg.evaluation.record import Record, Row
from klieg.storage.atomic import atomic_path

Values = NDArray[np.float64]
LISTED: Final = 20
"""Problems of a kind that the summary names; problems.csv has all of those found in photos."""


@dataclass(frozen=True)
class Score:
    """One metric of one method."""

    value: float
    """NaN where no question defines it."""
    low: float
    """2.5th percentile over resamples of the photos."""
    high: float
    """97.5th percentile."""
    questions: int
    """Number of questions that define it."""


@dataclass(frozen=True)
class Summary:
    """What an evaluation found."""

    scores: Mapping[str, Mapping[str, Score]]
    """By method, then metric; the baselines come last."""
    categories: Mapping[str, Mapping[str, Mapping[str, float]]]
    """By method, then metric, then category: means of the metrics that are means."""
    curves: Mapping[str, Mapping[str, tuple[float, ...]]]
    """By method, then metric: the mean curve of a metric that is an area under one."""
    photos: int
    """Photos with at least one question."""
    questions: int
    problems: Mapping[str, int]
    """Number of problems of each kind."""


def summarise(
    record: Record, dataset: Dataset, options: EvaluationOptions, *, folder: Path
) -> Summary:
    """Compute the scores of a finished evaluation and write `summary.json`.

    Confidence intervals are percentiles of a Poisson bootstrap over photos: every resample gives
    each photo, with all its questions, a weight drawn from a Poisson distribution of mean 1. That
    needs one pass over the lines, whatever their number.

    Raises:
        InputError: no photo had a question.
    """
    tally = _Tally(options)
    for row in record.rows():
        tally.add(row)
    problems = [*dataset.problems, *record.problems()]
    if not tally.photos:
        found = Counter(problem.kind for problem in problems)
        counts = ", ".join(f"{number} x {kind}" for kind, number in found.items())
        raise InputError(
            f"none of {len(dataset)} photos can be scored ({counts or 'no object on any'}), "
            "expected at least one with a category that the classifier knows: pass a mapping of "
            "categories to classes"
        )
    summary = Summary(
        scores=_scores(tally, record, options),
        categories=tally.by_category(),
        curves=_curves(record, options),
        photos=len(tally.photos),
        questions=tally.questions,
        problems=dict(Counter(problem.kind for problem in problems)),
    )
    with atomic_path(folder / "summary.json") as temporary:
        text = json.dumps(_plain(summary, problems, folder), indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return summary


class _Tally:
    """Weighted sums of all scores, for the data set itself and each of its resamples."""

    def __init__(self, options: EvaluationOptions) -> None:
        self._options = options
        self.photos: set[int] = set()
        self.questions = 0
        self._methods = (*options.methods, *BASELINES)
        # (method, metric, category) -> [2, 1 + resamples]: weighted sum and weight
        self._sums: dict[tuple[str, str, str], Values] = defaultdict(self._zeros)
        self.counts: Counter[tuple[str, str]] = Counter()
        self._last: tuple[int, Values] = (-1, np.ones(0))

    def add(self, row: Row) -> None:
        self.photos.add(row.photo)
        self.questions += row.method == self._methods[0]
        weights = self.weights(row.photo)
        for metric, value in row.scores.items():
            if np.isnan(value):
                continue
            self.counts[row.method, metric] += 1
            if METRICS[metric].pooled is None:
                sums = self._sums[row.method, metric, row.category]
                sums[0] += weights * value
                sums[1] += weights

    def weights(self, photo: int) -> Values:
        """Return [1 + resamples]: 1 for the data set itself, then the weights of the resamples."""
        if self._last[0] != photo:
            generator = np.random.default_rng([self._options.seed, photo])
            drawn = generator.poisson(1.0, self._options.resamples)
            self._last = photo, np.concatenate([[1.0], drawn])
        return self._last[1]

    def mean(self, method: str, metric: str) -> Values:
        """Return the score [1 + resamples] of a metric that is a mean."""
        parts = np.array([sums for key, sums in self._sums.items() if key[:2] == (method, metric)])
        if not len(parts):
            return np.full(1 + self._options.resamples, np.nan)
        if METRICS[metric].mean_over == "questions":
            return _ratio(*parts.sum(axis=0))
        return _mean_of_defined(_ratio(parts[:, 0], parts[:, 1]))

    def by_category(self) -> dict[str, dict[str, dict[str, float]]]:
        found: dict[str, dict[str, dict[str, float]]] = {}
        for (method, metric, category), sums in self._sums.items():
            value = float(sums[0, 0] / sums[1, 0])
            found.setdefault(method, {}).setdefault(metric, {})[category] = value
        return found

    def _zeros(self) -> Values:
        return np.zeros((2, 1 + self._options.resamples))


def _scores(
    tally: _Tally, record: Record, options: EvaluationOptions
) -> dict[str, dict[str, Score]]:
    methods = (*options.methods, *BASELINES)
    scores: dict[str, dict[str, Score]] = {method: {} for method in methods}
    for metric in options.metrics:
        if METRICS[metric].pooled is None:
            found = {method: tally.mean(method, metric) for method in methods}
        else:
            found = _pooled(metric, tally, record)
        for method in methods:
            value, resampled = float(found[method][0]), found[method][1:]
            defined = resampled[~np.isnan(resampled)]
            low, high = np.percentile(defined, [2.5, 97.5]) if defined.size else (np.nan, np.nan)
            number = tally.counts[method, metric]
            scores[method][metric] = Score(value, float(low), float(high), number)
    return scores


def _pooled(metric: str, tally: _Tally, record: Record) -> dict[str, Values]:
    """Return the score [1 + resamples] of each method by a metric of summed terms."""
    compute = METRICS[metric].pooled
    assert compute is not None
    sums: dict[str, Values] = {}  # [1 + resamples, K]
    for rows, terms in _blocks(metric, record):
        weights = np.stack([tally.weights(row.photo) for row in rows])  # [n, 1 + resamples]
        method = rows[0].method
        sums[method] = sums.get(method, np.zeros(1)) + weights.T @ terms
    return {method: compute(one) for method, one in sums.items()}


def _blocks(metric: str, record: Record) -> Iterator[tuple[list[Row], Values]]:
    """Yield the lines of scores.csv that belong to each block of terms."""
    rows = record.rows()
    for terms in record.terms(metric):
        yield list(islice(rows, len(terms))), terms


def _curves(record: Record, options: EvaluationOptions) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return the mean curves of the metrics that are areas under one."""
    found: dict[str, dict[str, tuple[float, ...]]] = defaultdict(dict)
    for metric in (name for name in options.metrics if METRICS[name].curve):
        sums: dict[str, Values] = {}
        for rows, terms in _blocks(metric, record):
            sums[rows[0].method] = sums.get(rows[0].method, np.zeros(1)) + terms.sum(axis=0)
        for method, total in sums.items():
            found[method][metric] = tuple(pooled_curve(total).tolist())
    return dict(found)


def _ratio(sums: Values, weights: Values) -> Values:
    return np.asarray(sums / np.where(weights > 0, weights, np.nan))


def _mean_of_defined(values: Values) -> Values:
    """Return the mean over the first axis of what is not NaN."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def _plain(summary: Summary, problems: list[Problem], folder: Path) -> dict[str, Any]:
    configuration = json.loads((folder / "configuration.json").read_text(encoding="utf-8"))
    by_kind = groupby(sorted(problems, key=lambda one: one.kind), key=lambda one: one.kind)
    listed = {
        kind: [f"{one.where}: {one.detail}".rstrip(": ") for one in islice(several, LISTED)]
        for kind, several in by_kind
    }
    plain = asdict(summary) | {
        "problems": {
            kind: {"number": summary.problems[kind], "first": first}
            for kind, first in listed.items()
        },
        "configuration": configuration,
    }
    return dict(_without_nan(plain))


def _without_nan(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: null instead."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
