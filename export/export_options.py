"""The options of an export, checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from klieg.errors import OptionError
from klieg.export.classifiers.onnx_classifier import GraphClassifier
from klieg.export.instrument.outputs import OUTPUTS
from klieg.model_file.methods import METHODS, find_method

ALL: Final = "all"


def outputs_for(methods: Sequence[str], *, masked: bool) -> list[str]:
    """Return the outputs that methods need besides logits, activation and mask."""
    if isinstance(methods, str):
        raise OptionError(f"methods is {methods!r}, expected a list of names such as [{methods!r}]")
    named = {name: find_method(name) for name in methods if name != ALL}
    for name, method in named.items():
        if "mask" in method.outputs and not masked:
            raise OptionError(f"method {name!r} needs a masking model: pass masker (--masker NAME)")
    asked = METHODS if ALL in methods else named
    needed = {output for method in asked.values() for output in method.outputs}
    return [output for output in OUTPUTS if output == "gradient" or output in needed]


def checked_statistics(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel; OptionError unless they are in 0..1 units."""
    means, stds = [float(m) for m in mean], [float(s) for s in std]
    if len(means) != len(stds) or not means:
        raise OptionError(f"got {len(means)} means and {len(stds)} stds, expected one per channel")
    if not all(0 <= m <= 1 for m in means) or not all(0 < s <= 1 for s in stds):
        raise OptionError(
            f"mean {means} and std {stds} must be in 0..1 units: "
            "divide by 255 if they are for 0..255"
        )
    return means, stds


def check_class_names(classifier: GraphClassifier, names: Sequence[str] | None) -> None:
    """Raise OptionError unless there is one name per class, or none at all."""
    if isinstance(names, str) or (names is not None and len(names) != classifier.classes):
        raise OptionError(
            f"got {len(names)} class names for {classifier.classes} classes, expected one per class"
        )
