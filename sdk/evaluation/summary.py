"""The summary of an evaluation: scores of each method with confidence intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    """The scores of an evaluation."""

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
    needs one pass over the rows of each method, whatever their number.

    Raises:
        InputError: no photo had a question.
    """
    sums = {
        method: _summed(record.rows(method), options) for method in (*options.methods, *BASELINES)
    }
    photos, questions = sums[options.methods[0]].photos, sums[options.methods[0]].questions
    problems = [*dataset.problems, *record.problems()]
    kinds: Counter[str] = Counter(problem.kind for problem in problems)
    if not photos:
        counts = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
        raise InputError(
            f"none of {len(dataset)} photos can be scored ({counts or 'no object on any'}), "
            "expected at least one with a category that the classifier knows: pass a mapping of "
            "categories to classes"
        )
    summary = Summary(
        scores={
            method: {metric: _score(metric, one) for metric in options.metrics}
            for method, one in sums.items()
        },
        categories={method: _by_category(one) for method, one in sums.items() if one.means},
        curves={method: curves for method, one in sums.items() if (curves := _curves(one))},
        photos=photos,
        questions=questions,
        problems=dict(kinds),
    )
    with atomic_path(folder / "summary.json") as temporary:
        text = json.dumps(_plain(summary, problems, record.configuration), indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    return summary


@dataclass
class _Sums:
    """Weighted sums of one method's scores: of the data set (weight 1) and of R resamples."""

    resamples: int
    photos: int = 0
    questions: int = 0
    defined: Counter[str] = field(default_factory=Counter)
    """Number of questions that define each metric."""
    means: dict[str, dict[str, Values]] = field(default_factory=dict)
    """By metric, then category: [2, 1 + R], the weighted sum of the scores and of the weights."""
    pooled: dict[str, Values] = field(default_factory=dict)
    """By metric: [1 + R, K], the weighted sum of the terms."""


def _summed(rows: Iterable[Row], options: EvaluationOptions) -> _Sums:
    """Sum the scores of one method in one pass, whatever the number of rows."""
    sums = _Sums(options.resamples)
    for _, several in groupby(rows, key=lambda row: row.photo // options.batch_size):
        batch = list(several)
        by_photo = {row.photo: _weights(row.photo, options) for row in batch}
        sums.photos += len(by_photo)
        sums.questions += len(batch)
        for row in batch:
            for metric, value in row.scores.items():
                if np.isnan(value):
                    continue
                sums.defined[metric] += 1
                if METRICS[metric].pooled is None:
                    weights = by_photo[row.photo]
                    by_category = sums.means.setdefault(metric, {})
                    added = np.stack([weights * value, weights])
                    by_category[row.category] = by_category.get(row.category, 0) + added
        weighted = np.stack([by_photo[row.photo] for row in batch]).T  # [1 + R, n]
        for metric in batch[0].terms:
            terms = np.stack([row.terms[metric] for row in batch])  # [n, K]
            sums.pooled[metric] = sums.pooled.get(metric, 0) + weighted @ terms
    return sums


def _weights(photo: int, options: EvaluationOptions) -> Values:
    """Return [1 + R]: 1 for the data set itself, then the weights of the resamples."""
    generator = np.random.default_rng([options.seed, photo])
    return np.concatenate([[1.0], generator.poisson(1.0, options.resamples)])


def _score(metric: str, sums: _Sums) -> Score:
    """Return the score of a method by a metric, with the interval of its resamples."""
    entry = METRICS[metric]
    values = np.full(1 + sums.resamples, np.nan)  # [1 + R]
    if entry.pooled is not None and metric in sums.pooled:
        values = entry.pooled(sums.pooled[metric])
    elif metric in sums.means:
        parts = np.array(list(sums.means[metric].values()))  # [categories, 2, 1 + R]
        if entry.mean_over == "questions":
            values = _ratio(*parts.sum(axis=0))
        else:
            values = _mean_of_defined(_ratio(parts[:, 0], parts[:, 1]))
    defined = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(defined, [2.5, 97.5]) if defined.size else (np.nan, np.nan)
    return Score(float(values[0]), float(low), float(high), sums.defined[metric])


def _by_category(sums: _Sums) -> dict[str, dict[str, float]]:
    """Return the mean of each metric and category."""
    return {
        metric: {category: float(one[0, 0] / one[1, 0]) for category, one in several.items()}
        for metric, several in sums.means.items()
    }


def _curves(sums: _Sums) -> dict[str, tuple[float, ...]]:
    """Return the mean curves of the metrics that are areas under one."""
    return {
        metric: tuple(pooled_curve(total[0]).tolist())
        for metric, total in sums.pooled.items()
        if METRICS[metric].curve
    }


def _ratio(sums: Values, weights: Values) -> Values:
    return np.asarray(sums / np.where(weights > 0, weights, np.nan))


def _mean_of_defined(values: Values) -> Values:
    """Return the mean over the first axis of what is not NaN."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def _plain(
    summary: Summary, problems: Sequence[Problem], configuration: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of summary.json."""
    listed = {
        kind: {
            "number": number,
            "first": [
                f"{one.where}: {one.detail}".rstrip(": ")
                for one in islice((one for one in problems if one.kind == kind), LISTED)
            ],
        }
        for kind, number in sorted(summary.problems.items())
    }
    plain = asdict(summary) | {"problems": listed, "configuration": configuration}
    return dict(_without_nan(plain))


def _without_nan(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: null instead."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
