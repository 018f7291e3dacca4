"""Which tensor of an ONNX model holds the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import onnx_ir as ir

from klieg.errors import ExportError
from klieg.export.autodiff.emitter import Emitter, dims
from klieg.export.autodiff.engine import describe

_FINAL: Final = ("Softmax", "LogSoftmax", "Sigmoid")
_SAME_NUMBERS: Final = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze")
"""Operators that keep the classes in order, which a Transpose need not."""


@dataclass(frozen=True)
class Score:
    """The logits of a classifier, and the final operator of the model behind them."""

    name: str
    """Name of the model's own output."""
    logits: ir.Value
    """[batch, classes] float32."""
    final_operator: str | None
    """Softmax, LogSoftmax or Sigmoid if the model ends with it and it was stepped over."""

    @property
    def probability(self) -> Literal["softmax", "sigmoid"]:
        """How the logits become probabilities."""
        return "sigmoid" if self.final_operator == "Sigmoid" else "softmax"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(dims(self.logits)[1] or 0)


def find_score(graph: ir.Graph, name: str | None) -> Score:
    """Find the logits of a classifier.

    Args:
        graph: A classifier in normal form; what brings the logits into shape is appended to it.
        name: Name of the output with one number per class, None if there is only one.

    Raises:
        ExportError: there is no such output, or the number of classes is not fixed.
    """
    output = _output(graph, name)
    value, final_operator = _step_back(output)
    sizes = dims(value)
    if len(sizes) < 2 or sizes[1] is None:
        raise ExportError(
            f"the number of classes in {value.name!r} is not fixed: {value.shape}, expected "
            "[batch, classes]"
        )
    op, logits = Emitter(graph), value
    if len(sizes) > 2:
        logits = op.Flatten(logits, axis=1)
    if value.dtype != ir.DataType.FLOAT:
        logits = op.Cast(logits, to=int(ir.DataType.FLOAT))
    batch = value.shape[0] if value.shape is not None else None
    logits.shape = ir.Shape([batch, sizes[1]])
    return Score(str(output.name), logits, final_operator)


def _output(graph: ir.Graph, name: str | None) -> ir.Value:
    listed = [f"{value.name} {value.shape}" for value in graph.outputs]
    found = [output for output in graph.outputs if _is_score(output)]
    if name is not None:
        named = [output for output in found if output.name == name]
        if not named:
            raise ExportError(
                f"the model's outputs are {listed}: none [batch, classes] is named {name!r}"
            )
        return named[0]
    if not found:
        raise ExportError(f"the model's outputs are {listed}, expected one [batch, classes]")
    if len(found) > 1:
        raise ExportError(
            f"the model's outputs are {listed}: name the one with score=... (--score)"
        )
    return found[0]


def _is_score(value: ir.Value) -> bool:
    """Return whether a value is [batch, classes], perhaps with further axes of size 1."""
    if value.shape is None or len(value.shape) < 2:
        return False
    if value.dtype is not None and not value.dtype.is_floating_point():
        return False
    return all(size == 1 for size in list(value.shape)[2:])


def _step_back(output: ir.Value) -> tuple[ir.Value, str | None]:
    """Step over a final Softmax, LogSoftmax or Sigmoid."""
    value = output
    while (node := value.producer()) is not None and node.inputs[0] is not None:
        source = node.inputs[0]
        if not _is_score(source):
            break
        if node.op_type in _FINAL:
            over_classes = int(a.as_int()) if (a := node.attributes.get("axis")) else -1
            if node.op_type != "Sigmoid" and over_classes % len(dims(source)) != 1:
                raise ExportError(f"{describe(node)} does not act on the classes, axis 1")
            return source, node.op_type
        if node.op_type not in _SAME_NUMBERS:
            break
        value = source
    return output, None
