"""Constants of the backward pass that follow from weights, and the note in a file that names them.

When weights change, these have to be computed again. Needs onnx alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from klieg.errors import ExportError

Array = NDArray[Any]

WRITTEN: Final = "gradient/"
"""Prefix of the names of nodes and tensors that klieg wrote."""

NOTE: Final = "klieg.derived"
"""Metadata of a file: for each derived constant its rule, its sources and its epsilon, in JSON."""

RULES: Final[Mapping[str, Callable[..., Array]]] = {
    "positive": lambda scale, _: (scale > 0).astype(scale.dtype),
    "rectified": lambda weight, _: np.maximum(weight, np.zeros((), weight.dtype)),
    "rectified_negative": lambda weight, _: np.maximum(-weight, np.zeros((), weight.dtype)),
    "slope": lambda scale, variance, epsilon: (
        scale / np.sqrt(variance.astype(np.float64) + epsilon)
    ).astype(scale.dtype),
}


@dataclass(frozen=True)
class DerivedWeight:
    """How a constant follows from initialisers."""

    rule: str
    """A key of `RULES`."""
    sources: tuple[str, ...]
    """The weight first, then other initialisers that the rule reads."""
    epsilon: float = 0.0
    """Added to a variance."""

    def computed(self, sources: Sequence[Array]) -> Array:
        """Compute the constant, which may then be given another shape."""
        return RULES[self.rule](*sources, self.epsilon)


def as_note(constants: Mapping[str, DerivedWeight]) -> str:
    """Return the text of the note in a file."""
    return json.dumps({name: astuple(derived) for name, derived in constants.items()})


def derived_weights(model: onnx.ModelProto) -> dict[str, DerivedWeight]:
    """Return the derived constants of an explainer file by name.

    Raises:
        ExportError: there is no note, because an older klieg wrote the file, or it is malformed.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if NOTE not in metadata:
        raise ExportError(
            "the file does not say which of its constants follow from weights, because an older "
            "klieg wrote it: export the model again"
        )
    try:
        noted = json.loads(metadata[NOTE]).items()
        found = {name: DerivedWeight(rule, tuple(s), epsilon) for name, (rule, s, epsilon) in noted}
    except (AttributeError, TypeError, ValueError) as error:
        raise ExportError(f"metadata {NOTE!r} is malformed: {error}") from error
    tensors = {tensor.name for tensor in model.graph.initializer}
    for name, derived in found.items():
        if derived.rule not in RULES or not tensors.issuperset((name, *derived.sources)):
            raise ExportError(f"metadata {NOTE!r} does not fit the file: {name!r} is {derived}")
    return found
