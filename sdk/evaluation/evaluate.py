"""Scores of saliency methods on a data set, from the file that is deployed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klieg.errors import OptionError
from klieg.evaluation.datasets.annotated import Dataset
from klieg.evaluation.datasets.classes import ClassFinder
from klieg.evaluation.metrics.table import pooled_metrics
from klieg.evaluation.options import EvaluationOptions
from klieg.evaluation.record import Record
from klieg.evaluation.report.examples import save_examples
from klieg.evaluation.report.markdown import markdown
from klieg.evaluation.report.plots import plot
from klieg.evaluation.scoring import Scoring
from klieg.evaluation.summary import Summary, summarise
from klieg.model_file.methods import find_method
from klieg.storage.atomic import atomic_path

if TYPE_CHECKING:
    from klieg.explainer import Explainer


def evaluate(
    explainer: Explainer,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    *,
    classes: ClassFinder | None = None,
    options: EvaluationOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Score methods, and maps that know nothing beside them, on every photo of a data set.

    Killed at any moment, the same call goes on where it was and ends with the same files.

    Args:
        explainer: The explainer file, opened.
        dataset: Photos with what people marked; see `klieg.evaluation.open_dataset`.
        folder: Gets `configuration.json`, `record.sqlite`, which a run that was killed goes on
            with, and in the end `scores.csv` (one line per photo, category and method),
            `problems.csv`, `summary.json`, `summary.md`, plots, and in `examples/` each method's
            worst and best questions.
        classes: Finds the classifier's classes of a category; None to take the category as the
            name or number of a class.
        options: What to do.
        progress: Called with the number of photos done and of all, first at once and then after
            every batch.

    Returns:
        Scores with confidence intervals.

    Raises:
        InputError: no photo has a category that the classifier knows.
        OptionError: the explainer file cannot do a method, or scales do not start with its size.
        EvaluationError: the folder belongs to another evaluation or cannot be written, or a
            package of the extra `eval` is missing.
        BackendError: the engine failed.
    """
    options = EvaluationOptions() if options is None else options
    classes = ClassFinder.of(explainer) if classes is None else classes
    for method in options.methods:
        explainer.check_outputs(f"method {method!r}", find_method(method).outputs)
    size = explainer.info.input_size
    if options.scales is not None and options.scales[:1] != (size,):
        raise OptionError(
            f"scales are {list(options.scales)}, expected to start with {size}: all methods are "
            "compared at that size"
        )
    target = Path(folder)
    record = Record(
        target,
        configuration(explainer, dataset, classes, options),
        metrics=options.metrics,
        pooled=pooled_metrics(options.metrics),
    )
    scoring = Scoring(explainer, dataset, classes, options, record)
    while record.photos < len(dataset):
        if progress is not None:
            progress(record.photos, len(dataset))
        stop = min(record.photos + options.batch_size, len(dataset))
        scoring.run(range(record.photos, stop))
    if progress is not None:
        progress(record.photos, len(dataset))
    record.export()
    summary = summarise(record, dataset, options, folder=target)
    with atomic_path(target / "summary.md") as temporary:
        temporary.write_text(markdown(summary), encoding="utf-8")
    plot(summary, target)
    save_examples(
        explainer,
        dataset,
        record,
        summary,
        target / "examples",
        classes_of=classes,
        options=options,
    )
    return summary


def configuration(
    explainer: Explainer, dataset: Dataset, classes: ClassFinder, options: EvaluationOptions
) -> dict[str, Any]:
    """Return everything that decides the scores, as it stands in `configuration.json`."""
    names = "\n".join(dataset.name(number) for number in range(len(dataset)))
    return {
        **asdict(options),
        "classes": classes.mapping,
        "photos": len(dataset),
        "names_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "versions": dict(explainer.versions),
    }
