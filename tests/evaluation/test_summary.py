"""Scores and their intervals, against sums written out."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from helpers.toy_dataset import toy_dataset
from klieg.errors import InputError
from klieg.evaluation.baselines import BASELINES
from klieg.evaluation.metrics.pixel_precision import pixel_counts, pixel_precision
from klieg.evaluation.metrics.table import METRICS
from klieg.evaluation.options import EvaluationOptions
from klieg.evaluation.record import Record, Row
from klieg.evaluation.summary import Summary, summarise

METHODS = ("gradcam", "cam")
METRIC_NAMES = ("pointing", "localisation_error", "pxap")
PHOTOS = 12


def options(**changed: object) -> EvaluationOptions:
    return EvaluationOptions(methods=METHODS, metrics=METRIC_NAMES, resamples=50, **changed)


def measured(folder: Path, **changed: object) -> tuple[Summary, list[Row], dict[str, list]]:
    """Fill a record with random scores, photo by photo, and summarise it."""
    rng = np.random.default_rng(0)
    record = Record(folder, {}, metrics=METRIC_NAMES, pooled=["pxap"])
    rows: list[Row] = []
    counts: dict[str, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for photo in range(PHOTOS):
        categories = [["ant"], ["ant", "bee"], ["bee", "cat"]][photo % 3]
        added = []
        for method in (*METHODS, *BASELINES):
            maps = rng.random((len(categories), 4, 5), dtype=np.float32)
            objects = rng.random(maps.shape) < 0.3
            batch = pixel_counts(maps, objects)
            counts[method] += [(photo, one) for one in batch]
            for category, terms in zip(categories, batch, strict=True):
                error = np.nan if photo == 5 else float(rng.integers(2))
                scores = {
                    "pointing": float(rng.integers(2)),
                    "localisation_error": error,
                    "pxap": np.nan,
                }
                added.append(
                    Row(photo, f"{photo}.png", category, 0, method, scores, {"pxap": terms.ravel()})
                )
        record.add(photo + 1, added, [])
        rows += added
    return summarise(record, toy_dataset(PHOTOS), options(**changed), folder=folder), rows, counts


def weights(resample: int) -> list[float]:
    """Draw the weight of every photo in a resample; 0 is the data set itself."""
    if resample == 0:
        return [1.0] * PHOTOS
    return [
        float(np.random.default_rng([0, photo]).poisson(1.0, 50)[resample - 1])
        for photo in range(PHOTOS)
    ]


def plain_mean(rows: list[Row], method: str, metric: str, weight: list[float]) -> float:
    """Weighted mean over questions, or over the means of categories."""
    found = [
        (row.category, row.scores[metric], weight[row.photo])
        for row in rows
        if row.method == method and row.scores[metric] == row.scores[metric]
    ]
    groups = defaultdict(list)
    for category, value, one in found:
        by_category = METRICS[metric].mean_over == "categories"
        groups[category if by_category else "all"].append((value, one))
    means = [
        sum(value * one for value, one in group) / sum(one for _, one in group)
        for group in groups.values()
        if sum(one for _, one in group) > 0
    ]
    return sum(means) / len(means)


@pytest.mark.parametrize("metric", ["pointing", "localisation_error"])
@pytest.mark.parametrize("method", METHODS)
def test_means_and_intervals_are_sums_written_out(metric: str, method: str, tmp_path: Path) -> None:
    summary, rows, _ = measured(tmp_path)
    score = summary.scores[method][metric]
    assert score.value == pytest.approx(plain_mean(rows, method, metric, weights(0)))
    resampled = [plain_mean(rows, method, metric, weights(number)) for number in range(1, 51)]
    assert (score.low, score.high) == pytest.approx(tuple(np.percentile(resampled, [2.5, 97.5])))
    assert score.low <= score.value <= score.high
    missing = 2 if metric == "localisation_error" else 0  # photo 5 has two questions
    assert score.questions == 20 - missing


def test_pooled_metrics_are_computed_from_summed_counts(tmp_path: Path) -> None:
    summary, _, counts = measured(tmp_path)
    for method in METHODS:
        resampled = []
        for number in range(51):
            weight = weights(number)
            total = sum(weight[photo] * one for photo, one in counts[method])
            resampled.append(float(pixel_precision(total)))
        score = summary.scores[method]["pxap"]
        assert score.value == pytest.approx(resampled[0])
        expected = tuple(np.percentile(resampled[1:], [2.5, 97.5]))
        assert (score.low, score.high) == pytest.approx(expected)


def test_categories_have_their_own_means(tmp_path: Path) -> None:
    summary, rows, _ = measured(tmp_path)
    for category in ("ant", "bee", "cat"):
        mine = [
            row.scores["pointing"]
            for row in rows
            if (row.method, row.category) == ("cam", category)
        ]
        assert summary.categories["cam"]["pointing"][category] == pytest.approx(np.mean(mine))


def test_the_file_says_the_same_and_is_json(tmp_path: Path) -> None:
    summary, _, _ = measured(tmp_path)
    text = (tmp_path / "summary.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    for method, metrics in summary.scores.items():
        for metric, score in metrics.items():
            assert found["scores"][method][metric]["value"] == pytest.approx(score.value)
    assert (found["photos"], found["questions"]) == (PHOTOS, 20)


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    record = Record(tmp_path, {}, metrics=METRIC_NAMES, pooled=["pxap"])
    with pytest.raises(InputError, match="none of 12 photos can be scored"):
        summarise(record, toy_dataset(PHOTOS), options(), folder=tmp_path)
    assert not (tmp_path / "summary.json").exists()
