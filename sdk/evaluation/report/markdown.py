"""The scores as a table to read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from klieg.evaluation.baselines import BASELINES
from klieg.evaluation.metrics.table import METRICS
from klieg.evaluation.summary import Score, Summary

ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}


def markdown(summary: Summary) -> str:
    """Return the scores as Markdown: a row per method, a column per metric, then what was wrong.

    The best method of a column is bold, baselines left aside.
    """
    metrics = list(next(iter(summary.scores.values())))
    head = [f"{METRICS[name].title}{ARROWS[METRICS[name].better]}" for name in metrics]
    best = {name: _best(summary.scores, name) for name in metrics}
    lines = [
        f"# Scores on {summary.photos} photos",
        "",
        f"{summary.questions} questions, a photo and a category each. In brackets the 95 % "
        "interval over resamples of the photos.",
        "",
    ]
    rows = []
    for method, scores in summary.scores.items():
        name = f"*{method}*" if method in BASELINES else f"`{method}`"
        cells = [
            cell(scores[metric], METRICS[metric].decimals, bold=best[metric] == method)
            for metric in metrics
        ]
        rows.append([name, *cells])
    lines += [
        *table(["method", *head], rows),
        "",
        "In italics: maps that know nothing of the classifier.",
    ]
    if summary.problems:
        lines += ["", "What was wrong with the data (summary.json names the first of each):", ""]
        lines += [f"- {number} x {kind}" for kind, number in summary.problems.items()]
    return "\n".join(lines) + "\n"


def cell(score: Score, decimals: int, *, bold: bool = False) -> str:
    """Return a score as text, with its interval."""
    if math.isnan(score.value):
        return "-"
    value = f"{score.value:.{decimals}f}"
    marked = f"**{value}**" if bold else value
    return f"{marked} ({score.low:.{decimals}f} to {score.high:.{decimals}f})"


def _best(scores: Mapping[str, Mapping[str, Score]], metric: str) -> str | None:
    better = METRICS[metric].better
    values = {
        method: of_method[metric].value
        for method, of_method in scores.items()
        if method not in BASELINES and not math.isnan(of_method[metric].value)
    }
    if better == "neither" or len(values) < 2:
        return None
    return (max if better == "higher" else min)(values, key=lambda method: values[method])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
