"""Plots of the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from klieg.errors import EvaluationError
from klieg.evaluation.baselines import BASELINES
from klieg.evaluation.metrics.table import METRICS
from klieg.evaluation.summary import Score, Summary
from klieg.storage.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY, ACCENT = "#222222", "#b5b5b5", "#c2410c"
CATEGORIES: Final = 25
"""Of more categories the plot shows those where methods differ most."""
STYLES: Final = ("-", "--", ":", "-.")


def plot(summary: Summary, folder: Path) -> None:
    """Draw `scores.png`, and where there is something to show `categories.png`, `curves.png`.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    save_figure(_scores(summary), folder / "scores.png")
    metric = _of_categories(summary)
    if metric is not None:
        save_figure(_categories(summary, metric), folder / "categories.png")
    if summary.curves:
        save_figure(_curves(summary), folder / "curves.png")


def _scores(summary: Summary) -> Figure:
    """Draw a panel per metric: a bar per method, its interval, baselines in grey."""
    methods = list(summary.scores)
    metrics = [name for name, one in summary.scores[methods[0]].items() if one.questions]
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    height = (0.26 * len(methods) + 0.7) * rows + 0.2
    figure = figure_of(3.2 * columns + 1.2, height)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        _bars(axis, [summary.scores[method][metric] for method in methods], methods)
        arrow = {"higher": " (higher is better)", "lower": " (lower is better)", "neither": ""}
        axis.set_title(f"{METRICS[metric].title}{arrow[METRICS[metric].better]}", fontsize=9)
    return figure


def _bars(axis: Axes, scores: Sequence[Score], methods: Sequence[str]) -> None:
    values = np.array([score.value for score in scores])
    spread = np.array([[s.value - s.low, s.high - s.value] for s in scores]).T.clip(min=0)
    colours = [GREY if method in BASELINES else ACCENT for method in methods]
    places = np.arange(len(methods))
    axis.barh(
        places,
        np.nan_to_num(values),
        xerr=np.nan_to_num(spread),
        color=colours,
        height=0.7,
        ecolor=INK,
        error_kw={"linewidth": 0.8},
    )
    axis.set_yticks(places, methods, fontsize=8)
    axis.set_ylim(len(methods) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=8)
    axis.axvline(0, color=INK, linewidth=0.6)


def _of_categories(summary: Summary) -> str | None:
    """Return the first metric that several categories have, if any."""
    for metrics in summary.categories.values():
        for metric, values in metrics.items():
            if len(values) > 1:
                return metric
    return None


def _categories(summary: Summary, metric: str) -> Figure:
    """Draw a panel per method: a bar per category."""
    found = {
        method: metrics[metric]
        for method, metrics in summary.categories.items()
        if metric in metrics and method not in BASELINES
    }
    names = _most_different(found)
    figure = figure_of(1.9 * len(found) + 1.4, 0.2 * len(names) + 1)
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True, sharex=True)[0]
    for axis, (method, values) in zip(axes, found.items(), strict=True):
        axis.barh(names, [values.get(name, np.nan) for name in names], color=ACCENT, height=0.7)
        axis.set_title(method, fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    better = METRICS[metric].better
    figure.suptitle(f"{METRICS[metric].title} by category ({better} is better)", fontsize=10)
    return figure


def _most_different(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return at most CATEGORIES names, in alphabetical order."""
    names = sorted({name for values in found.values() for name in values})
    if len(names) <= CATEGORIES:
        return names

    def difference(name: str) -> float:
        values = [one[name] for one in found.values() if name in one]
        return max(values) - min(values)

    return sorted(sorted(names, key=difference, reverse=True)[:CATEGORIES])


def _curves(summary: Summary) -> Figure:
    """Draw a panel per kind of curve: probability against the share of pixels."""
    kinds = sorted({metric for curves in summary.curves.values() for metric in curves})
    figure = figure_of(4.2 * len(kinds), 4.4)
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        for number, (method, curves) in enumerate(summary.curves.items()):
            curve = curves[kind]
            known = method not in BASELINES
            axis.plot(
                np.linspace(0, 100, len(curve)),
                curve,
                label=method,
                linewidth=1.6 if known else 1,
                color=None if known else GREY,
                linestyle=STYLES[number % len(STYLES)],
            )
        axis.set_title(METRICS[kind].title, fontsize=9)
        axis.set_xlabel("% of the pixels, most salient first", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("mean probability of the class", fontsize=8)
    axes[-1].legend(fontsize=7, frameon=False)
    return figure


def figure_of(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EvaluationError("plots need matplotlib: pip install 'klieg[eval]'") from error
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, complete or not at all."""
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
