"""Options of an evaluation, and checks of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from klieg.errors import OptionError
from klieg.evaluation.metrics.table import DEFAULT, find_metric
from klieg.evaluation.questions import Targets
from klieg.images.fitting import Fit
from klieg.maps.regions import Rule
from klieg.model_file.methods import find_method


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of an evaluation; together with explainer and data set they decide every score."""

    methods: tuple[str, ...] = ("cameras",)
    metrics: tuple[str, ...] = DEFAULT
    targets: Targets = "labelled"
    """The classes to explain: with "labelled" every category that people marked on a photo, as the
    class of it that the model finds most likely; with "predicted" the predicted class, against all
    objects together."""
    fit: Fit = "stretch"
    """How a photo becomes square."""
    rule: Rule = "mean"
    """How a map becomes a region."""
    scales: tuple[int, ...] | None = None
    """Image sizes of multi-scale methods; None for the explainer file's own."""
    method_options: Mapping[str, float] = field(default_factory=dict)
    """Numbers that methods take, each for the methods that know it."""
    batch_size: int = 8
    resamples: int = 400
    """Resamples of the photos for the confidence intervals."""
    seed: int = 0
    """Seed of the resamples."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done, before anything is computed.

        Raises:
            OptionError: a method, a metric or a number is impossible.
        """
        for metric in self.metrics:
            find_metric(metric)
        methods = [find_method(method) for method in self.methods]
        check_names(methods=self.methods, metrics=self.metrics)
        for option in self.method_options:
            if not any(option in method.options for method in methods):
                known = sorted({name for method in methods for name in method.options})
                raise OptionError(
                    f"none of {', '.join(self.methods)} has an option {option!r}: "
                    f"they take {', '.join(known) or 'none'}"
                )
        check_at_least(1, batch_size=self.batch_size, resamples=self.resamples)

    def asks_class(self, method: str) -> bool:
        """Return whether a method is asked for a class, or explains what it does by itself.

        Asked for no class, CAMERAS leaves out the sizes at which the model predicts another one.
        """
        return self.targets == "labelled" and not find_method(method).class_free

    def of_method(self, name: str) -> dict[str, float]:
        """Return those of the method options that one method has."""
        known = find_method(name).options
        return {option: value for option, value in self.method_options.items() if option in known}


def check_at_least(lowest: int, **numbers: int | None) -> None:
    """Raise OptionError for a number below the lowest one; None is no number and passes."""
    for name, number in numbers.items():
        if number is not None and number < lowest:
            raise OptionError(f"{name} is {number}, expected at least {lowest}")


def check_names(**lists: Sequence[str]) -> None:
    """Raise OptionError for a list that is empty or has a name twice."""
    for title, names in lists.items():
        if not names or len(set(names)) < len(names):
            raise OptionError(f"{title} are {list(names)}, expected at least one, each once")
