"""Scores of one batch after the other: questions, maps of every method, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import ImageError
from klieg.evaluation.baselines import BASELINES
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Dataset, Problem
from klieg.evaluation.metrics.case import Case, Scene
from klieg.evaluation.metrics.table import METRICS
from klieg.evaluation.options import EvaluationOptions
from klieg.evaluation.questions import Question, ask
from klieg.evaluation.record import Record, Row
from klieg.model_file.methods import find_method

if TYPE_CHECKING:
    from klieg.explainer import Explainer

ClassesOf = Callable[[str], tuple[int, ...] | None]
"""Returns the classifier's classes that mean a category, None if there are none."""
Asked = tuple[int, AnnotatedPhoto, list[Question]]
"""A photo's number in the data set, the photo, and at least one question about it."""


class Scoring:
    """Scores photos of a data set and adds the results to a record."""

    def __init__(
        self,
        explainer: Explainer,
        dataset: Dataset,
        classes_of: ClassesOf,
        options: EvaluationOptions,
        record: Record,
    ) -> None:
        """Take what `evaluate` was given."""
        self._explainer, self._dataset, self._classes_of = explainer, dataset, classes_of
        self._options, self._record = options, record

    def run(self, numbers: Sequence[int]) -> None:
        """Score the photos of one batch."""
        photos, problems = self._read(numbers)
        asked: list[Asked] = []
        for number, photo in photos:
            questions, unknown = ask(photo, self._classes_of, self._options.targets)
            problems += [*photo.problems, *unknown]
            if questions:
                asked.append((number, photo, questions))
        rows: list[Row] = []
        if asked:
            scene = self._scene(asked)
            for method, maps in self._maps(scene, asked):
                scores, terms = self._measure(Case(scene, maps, self._options.rule))
                rows += _rows(method, scene, asked, scores, terms)
        self._record.add(numbers[-1] + 1, rows, problems)

    def _read(
        self, numbers: Iterable[int]
    ) -> tuple[list[tuple[int, AnnotatedPhoto]], list[Problem]]:
        photos, problems = [], []
        for number in numbers:
            try:
                photos.append((number, self._dataset[number]))
            except ImageError as error:
                name = self._dataset.name(number)
                problems.append(Problem("unreadable image", name, str(error)))
        return photos, problems

    def _scene(self, asked: Sequence[Asked]) -> Scene:
        """Fit the photos, pass them once, and choose the class of every question."""
        photos = (photo.photo for _, photo, _ in asked)
        images, placements = self._explainer.prepare(photos, fit=self._options.fit)
        logits = self._explainer.model.logits(images)
        image_index = np.repeat(np.arange(len(asked)), [len(questions) for *_, questions in asked])
        questions = tuple(question for *_, several in asked for question in several)
        targets = [
            _likeliest(logits[number], question.classes, self._options.targets == "predicted")
            for number, question in zip(image_index, questions, strict=True)
        ]
        return Scene(
            model=self._explainer.model,
            images=images,
            logits=logits,
            placements=placements,
            ignored=tuple(photo.ignore for _, photo, _ in asked),
            questions=questions,
            image_index=image_index,
            targets=np.array(targets, dtype=np.int64),
        )

    def _maps(
        self, scene: Scene, asked: Sequence[Asked]
    ) -> Iterable[tuple[str, NDArray[np.float32]]]:
        """Yield each method, then each baseline, with its maps [N, S, S]."""
        photos = [photo.photo for _, photo, _ in asked]
        for method in self._options.methods:
            entry = find_method(method)
            asked_for = self._options.asks_class(method)
            classes = _grouped(scene.targets, scene.image_index) if asked_for else None
            explanation = self._explainer.explain(
                photos,
                method=method,
                target=classes,
                fit=self._options.fit,
                scales=self._options.scales if entry.multi_scale else None,
                batch_size=len(photos),
                **self._options.of_method(method),
            )
            maps = explanation.maps
            yield method, maps if asked_for else maps[scene.image_index]
        for name, baseline in BASELINES.items():
            pairs = zip(scene.images, asked, strict=True)
            made = np.stack([baseline(image, number) for image, (number, *_) in pairs])
            yield name, made[scene.image_index]

    def _measure(
        self, case: Case
    ) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[Any]]]:
        """Return the score [N] of each metric, and the terms [N, K] of the pooled ones."""
        scores, terms = {}, {}
        for name in self._options.metrics:
            metric = METRICS[name]
            values = metric.measure(case)
            if metric.pooled is not None:
                terms[name] = values
                values = metric.pooled(values.astype(np.float64))
            scores[name] = values
        return scores, terms


def _likeliest(logits: NDArray[np.float32], classes: tuple[int, ...], predicted: bool) -> int:
    """Return the class of a question that the model finds most likely."""
    if predicted:
        return int(logits.argmax())
    return classes[int(logits[list(classes)].argmax())]


def _grouped(targets: NDArray[np.int64], image_index: NDArray[np.int64]) -> list[list[int]]:
    """Return the classes asked of each image."""
    return [targets[image_index == number].tolist() for number in range(image_index.max() + 1)]


def _rows(
    method: str,
    scene: Scene,
    asked: Sequence[Asked],
    scores: Mapping[str, NDArray[np.float64]],
    terms: Mapping[str, NDArray[Any]],
) -> list[Row]:
    return [
        Row(
            asked[image_index][0],
            asked[image_index][1].name,
            question.category,
            int(scene.targets[n]),
            method,
            {name: float(values[n]) for name, values in scores.items()},
            {name: values[n] for name, values in terms.items()},
        )
        for n, (image_index, question) in enumerate(
            zip(scene.image_index, scene.questions, strict=True)
        )
    ]
