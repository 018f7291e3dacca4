"""Pictures of the questions that a method answered best and worst."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.evaluation.datasets.annotated import Dataset
from klieg.evaluation.metrics.table import METRICS
from klieg.evaluation.options import EvaluationOptions
from klieg.evaluation.questions import ask, mask_on_grid
from klieg.evaluation.record import Record, Row
from klieg.evaluation.summary import Summary
from klieg.images.fitting import fit_image
from klieg.model_file.methods import find_method
from klieg.results.lettering import Picture, sheet, write_png
from klieg.results.overlay import overlay

if TYPE_CHECKING:
    from klieg.evaluation.scoring import ClassesOf
    from klieg.explainer import Explainer

EACH: Final = 4
"""Best examples of a method, and worst ones."""
GRADUAL: Final = ("pxap", "soft_f1", "saliency_metric")
"""Metrics that tell questions apart better than a hit or a miss does, first choice first."""
OUTLINE: Final = (60, 220, 120)


def save_examples(
    explainer: Explainer,
    dataset: Dataset,
    record: Record,
    summary: Summary,
    folder: Path,
    *,
    classes_of: ClassesOf,
    options: EvaluationOptions,
) -> None:
    """Write `METHOD.png` for every method: worst questions above, best ones below.

    Objects are outlined in green. Maps are computed again: none is kept while scores are taken.
    """
    defined = summary.scores[options.methods[0]]
    ranked = [
        name
        for name in options.metrics
        if METRICS[name].better != "neither" and defined[name].questions
    ]
    if not ranked:
        return
    metric = next((name for name in GRADUAL if name in ranked), ranked[0])
    for method, (worst, best) in _extremes(record.rows(), metric, options.methods).items():
        tiles = [
            _tile(explainer, dataset, row, metric, classes_of, options) for row in [*worst, *best]
        ]
        write_png(folder / f"{method}.png", sheet(tiles, columns=max(len(worst), len(best))))


def _extremes(
    rows: Iterable[Row], metric: str, methods: Iterable[str]
) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return the worst and the best rows of each method; no row is both."""
    sign = 1 if METRICS[metric].better == "higher" else -1
    # Heaps of [goodness, order, row], the least wanted on top; order settles ties.
    worst: dict[str, list[tuple[float, int, Row]]] = {method: [] for method in methods}
    best: dict[str, list[tuple[float, int, Row]]] = {method: [] for method in methods}
    for number, row in enumerate(rows):
        score = row.scores[metric]
        if row.method not in worst or math.isnan(score):
            continue
        for heap, key in ((worst[row.method], -sign * score), (best[row.method], sign * score)):
            entry = (key, -number, row)
            if len(heap) < EACH:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
    found = {}
    for method in methods:
        lowest = [row for *_, row in sorted(worst[method], reverse=True)]
        taken = {id(row) for row in lowest}
        highest = [row for *_, row in sorted(best[method], reverse=True) if id(row) not in taken]
        if lowest:
            found[method] = (lowest, highest)
    return found


def _tile(
    explainer: Explainer,
    dataset: Dataset,
    row: Row,
    metric: str,
    classes_of: ClassesOf,
    options: EvaluationOptions,
) -> Picture:
    photo = dataset[row.photo]
    entry = find_method(row.method)
    target = row.target if options.asks_class(row.method) else None
    explanation = explainer.explain(
        [photo.photo],
        method=row.method,
        target=target,
        fit=options.fit,
        batch_size=1,
        scales=options.scales if entry.multi_scale else None,
        **options.of_method(row.method),
    )
    fitted, placement = fit_image(photo.photo, explanation.maps.shape[1], options.fit)
    questions, _ = ask(photo, classes_of, options.targets)
    (question,) = (one for one in questions if one.category == row.category)
    picture = overlay(
        np.rint(fitted).astype(np.uint8),
        explanation.maps[0],
        title=f"{row.category} {row.scores[metric]:.{METRICS[metric].decimals}f}",
        subtitle=Path(row.image).name,
    )
    return _outlined(picture, mask_on_grid(question.objects, placement, outside=False))


def _outlined(picture: Picture, objects: NDArray[np.bool_]) -> Picture:
    """Draw the outline of objects [S, S] on an overlay, whose photo is as wide as the picture."""
    width = picture.shape[1]
    mask = cv2.resize(objects.astype(np.uint8), (width, width), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = cv2.drawContours(np.ascontiguousarray(picture), contours, -1, OUTLINE, 2)
    return np.asarray(drawn, dtype=np.uint8)
