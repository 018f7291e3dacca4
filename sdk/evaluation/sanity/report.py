"""The randomisation tests of several methods as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from klieg.evaluation.report.markdown import table
from klieg.evaluation.report.plots import figure_of, save_figure
from klieg.evaluation.sanity.randomisation import RandomisationResult
from klieg.storage.atomic import atomic_path
from klieg.storage.table import write_rows

TITLES: Final = {
    "spearman": "Spearman",
    "spearman_absolute": "Spearman of |map - 0.5|",
    "ssim": "SSIM",
    "hog": "HOG",
}


def save_randomisation(results: Mapping[str, RandomisationResult], folder: Path) -> None:
    """Write `randomisation.csv`, `.md` and `.png`: mean similarities by method and layer.

    Args:
        results: By method, of the same layers and similarities.
        folder: Created if missing.
    """
    metrics = next(iter(results.values())).metrics
    write_rows(
        folder / "randomisation.csv",
        ["method", "layer", *metrics, *(f"{name}_undefined" for name in metrics)],
        (
            [method, layer, *(f"{one:.6g}" for one in means), *undefined]
            for method, result in results.items()
            for layer, means, undefined in zip(
                result.layers, result.similarities, result.undefined, strict=True
            )
        ),
    )
    with atomic_path(folder / "randomisation.md") as temporary:
        temporary.write_text(markdown(results), encoding="utf-8")
    _plot(results, folder / "randomisation.png")


def markdown(results: Mapping[str, RandomisationResult]) -> str:
    """Return a table per similarity: a row per layer from the output down, a column per method."""
    first = next(iter(results.values()))
    lines = []
    for number, metric in enumerate(first.metrics):
        lines += [f"**{TITLES[metric]}** with the maps of the original", ""]
        rows = []
        for place, layer in enumerate(first.layers):
            values = [result.similarities[place, number] for result in results.values()]
            rows.append([layer, *("-" if np.isnan(value) else f"{value:.2f}" for value in values)])
        lines += [*table(["drawn anew", *(f"`{method}`" for method in results)], rows), ""]
    return "\n".join(lines)


def _plot(results: Mapping[str, RandomisationResult], path: Path) -> None:
    """Draw a panel per similarity, a line per method, layers from the output down."""
    first = next(iter(results.values()))
    figure = figure_of(3.3 * len(first.metrics) + 1.4, 3.6)
    axes = figure.subplots(1, len(first.metrics), squeeze=False, sharey=True)[0]
    for number, (axis, metric) in enumerate(zip(axes, first.metrics, strict=True)):
        for place, (method, result) in enumerate(results.items()):
            axis.plot(
                [1.0, *result.similarities[:, number]],
                label=method,
                marker="o",
                markersize=3,
                linewidth=1.3,
                linestyle=("-", "--", ":", "-.")[place // 10 % 4],
            )
        axis.axhline(0, color="#222222", linewidth=0.6)
        axis.set_title(TITLES[metric], fontsize=9)
        axis.set_xlabel("groups of layers drawn anew", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel("similarity with the original map", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    save_figure(figure, path)
