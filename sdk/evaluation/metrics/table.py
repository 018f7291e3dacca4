"""The table of metrics: how a case is measured, and how a data set's score follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from klieg.errors import OptionError
from klieg.evaluation.metrics.box_accuracy import box_hits, max_box_accuracy
from klieg.evaluation.metrics.case import Case, Scene
from klieg.evaluation.metrics.confidence import average_drop, average_increase, rho
from klieg.evaluation.metrics.localisation import localisation_error, official_metric
from klieg.evaluation.metrics.map_statistics import compactness, entropy
from klieg.evaluation.metrics.overlap import soft_f1
from klieg.evaluation.metrics.perturbation_curves import area_under, deletion, insertion
from klieg.evaluation.metrics.pixel_precision import pixel_counts, pixel_precision
from klieg.evaluation.metrics.pointing import difficult_pairs, pointing_hits
from klieg.evaluation.metrics.saliency_metric import (
    LEAST_PROBABILITY,
    box_areas,
    saliency_metric,
)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """An entry of the table of metrics."""

    title: str
    better: Literal["higher", "lower", "neither"]
    measure: Callable[[Case], NDArray[Any]]
    """Returns [N], NaN where the metric is not defined; of a pooled metric [N, K] terms."""
    mean_over: Literal["questions", "categories"] = "questions"
    """"categories": the mean over categories of each one's mean."""
    pooled: Callable[[Values], Values] | None = None
    """Returns scores [...] from summed terms [..., K], NaN where they define none; None for a
    metric that is a mean."""
    curve: bool = False
    """Whether the terms are the points of a curve, then a 1 that counts the curves."""
    decimals: int = 3


def find_metric(name: str) -> Metric:
    """Return an entry of the table or raise OptionError."""
    if name not in METRICS:
        raise OptionError(f"unknown metric {name!r}, expected one of {', '.join(METRICS)}")
    return METRICS[name]


def pooled_metrics(names: Iterable[str]) -> list[str]:
    """Return those of some metrics that are no means over questions."""
    return [name for name in names if METRICS[name].pooled is not None]


def _pointing(case: Case) -> Values:
    return pointing_hits(case.photo_maps, [question.objects for question in case.scene.questions])


def _pointing_difficult(case: Case) -> Values:
    questions = case.scene.questions
    others = np.array([question.others for question in questions])
    difficult = difficult_pairs([question.objects for question in questions], others)
    return np.where(difficult, _pointing(case), np.nan)


def _official_metric(case: Case) -> Values:
    correct = case.scene.correct
    return _with_boxes(
        case, lambda rows, boxes: official_metric(case.boxes[rows], boxes, correct[rows])
    )


def _with_boxes(
    case: Case, measure: Callable[[NDArray[np.int64], list[Values]], NDArray[Any]]
) -> Values:
    """Measure the questions that have boxes; NaN for the others."""
    boxes = case.scene.boxes
    rows = np.flatnonzero([len(one) > 0 for one in boxes])
    values = np.full(len(boxes), np.nan)
    if rows.size:
        values[rows] = measure(rows, [boxes[row] for row in rows])
    return values


def _saliency_metric(case: Case) -> Values:
    areas = box_areas(case.boxes, case.maps.shape[1])
    chances = np.maximum(case.cropped, LEAST_PROBABILITY)
    return saliency_metric(areas, chances)


def _pixel_precision(case: Case) -> NDArray[Any]:
    scene = case.scene
    counts = pixel_counts(case.maps, scene.objects, ignore=scene.ignore)
    return counts.reshape(len(counts), -1) * scene.has_mask[:, None]


def _pooled_precision(sums: Values) -> Values:
    counts = sums.reshape(*sums.shape[:-1], 2, -1)
    defined = counts[..., 1, :].sum(axis=-1) > 0
    scores = np.full(defined.shape, np.nan)
    if defined.any():
        scores[defined] = pixel_precision(counts[defined])
    return scores


def _max_box_accuracy(case: Case) -> NDArray[Any]:
    boxes = case.scene.boxes
    hits = box_hits(case.maps, boxes)  # [N, 3, T]
    counted = np.array([len(one) > 0 for one in boxes])[:, None]
    return np.concatenate([hits.reshape(len(hits), -1) & counted, counted], axis=1).astype(np.int64)


def _pooled_box_accuracy(sums: Values) -> Values:
    hits, counts = sums[..., :-1].reshape(*sums.shape[:-1], 3, -1), sums[..., -1]
    scores = np.full(counts.shape, np.nan)
    defined = counts > 0
    if defined.any():
        scores[defined] = max_box_accuracy(hits[defined], counts[defined])
    return scores


def _curves(case: Case, perturb: Callable[..., Values]) -> NDArray[Any]:
    """Return [N, points + 1]: a curve and, to be summed with it, a one."""
    scene = case.scene
    curves = []
    for image_index, target, one in zip(scene.image_index, scene.targets, case.maps, strict=True):
        classify = partial(_probability, scene, target)
        curves.append([*perturb(classify, scene.images[image_index], one), 1.0])
    return np.array(curves)


def _probability(scene: Scene, target: np.int64, images: NDArray[np.float32]) -> Values:
    return scene.probability(images, np.full(len(images), target))


def pooled_curve(sums: Values) -> Values:
    """Return the mean curve [..., points] of summed curves and their number [..., points + 1]."""
    counts = sums[..., -1:]
    return np.asarray(sums[..., :-1] / np.where(counts > 0, counts, np.nan))


def _rho(case: Case) -> tuple[Values, Values]:
    return rho(case.kept, case.removed, case.maps.mean(axis=(1, 2), dtype=np.float64))


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "pointing": Metric("Pointing game", "higher", _pointing, "categories"),
        "pointing_difficult": Metric(
            "Pointing game, difficult", "higher", _pointing_difficult, "categories"
        ),
        "localisation_error": Metric(
            "Localisation error",
            "lower",
            lambda case: _with_boxes(
                case, lambda rows, boxes: localisation_error(case.boxes[rows], boxes)
            ),
        ),
        "official_metric": Metric("Official metric", "lower", _official_metric),
        "soft_f1": Metric(
            "Soft F1",
            "higher",
            lambda case: _with_boxes(case, lambda rows, boxes: soft_f1(case.maps[rows], boxes)[0]),
        ),
        "pxap": Metric("PxAP", "higher", _pixel_precision, pooled=_pooled_precision, decimals=1),
        "max_box_acc": Metric(
            "MaxBoxAcc V2", "higher", _max_box_accuracy, pooled=_pooled_box_accuracy, decimals=1
        ),
        "saliency_metric": Metric("Saliency metric", "lower", _saliency_metric),
        "rho_plus": Metric("rho+", "higher", lambda case: _rho(case)[0]),
        "rho_minus": Metric("rho-", "lower", lambda case: _rho(case)[1]),
        "average_drop": Metric(
            "Average drop",
            "lower",
            lambda case: average_drop(case.scene.confidence, case.kept),
            decimals=1,
        ),
        "average_increase": Metric(
            "Average increase",
            "higher",
            lambda case: average_increase(case.scene.confidence, case.kept),
            decimals=1,
        ),
        "insertion": Metric(
            "Insertion",
            "higher",
            lambda case: _curves(case, insertion),
            pooled=lambda sums: area_under(pooled_curve(sums)),
            curve=True,
        ),
        "deletion": Metric(
            "Deletion",
            "lower",
            lambda case: _curves(case, partial(deletion, fill=case.scene.model.mean_colour)),
            pooled=lambda sums: area_under(pooled_curve(sums)),
            curve=True,
        ),
        "compactness": Metric("Compactness", "neither", lambda case: compactness(case.maps)),
        "entropy": Metric("Entropy", "neither", lambda case: entropy(case.maps)),
    }
)

DEFAULT: Final = (
    "pointing",
    "localisation_error",
    "pxap",
    "saliency_metric",
    "rho_plus",
    "rho_minus",
)
