"""A classifier given as ONNX: which tensor is the image, the logits, the layer to explain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from klieg.errors import ExportError
from klieg.export.autodiff.emitter import Emitter, dims
from klieg.export.autodiff.engine import describe
from klieg.export.autodiff.gradient import find_tensor
from klieg.export.autodiff.normal_form import normal_form
from klieg.export.feature_maps import last_feature_map, measure_shapes


@dataclass(frozen=True)
class GraphClassifier:
    """A classifier as an ONNX graph in normal form, its three tensors found."""

    model: ir.Model
    image: ir.Value
    logits: ir.Value
    activation: ir.Value
    layer: str
    image_name: str
    """Name of the model's own input; instrumenting renames it."""
    final_operator: str | None
    """Softmax, LogSoftmax or Sigmoid if the model ends with it and it was stepped over."""
    score_name: str
    """Name of the output that the model itself calls its result."""
    source_sha256: str

    @property
    def probability(self) -> Literal["softmax", "sigmoid"]:
        """How the logits become probabilities."""
        return "sigmoid" if self.final_operator == "Sigmoid" else "softmax"

    @property
    def classes(self) -> int:
        """Number of classes."""
        classes = dims(self.logits)[-1]
        if classes is None:
            raise ExportError(f"the number of classes in {self.logits.name!r} is not fixed")
        return classes


def find_classifier(
    proto: onnx.ModelProto, *, layer: str | None, input_size: int, channels: int
) -> GraphClassifier:
    """Find the image, the logits and the layer in a bare ONNX classifier.

    Args:
        proto: A model with one image input [batch, channels, height, width] and one output
            [batch, classes]. A final Softmax or Sigmoid is stepped over: the score explained is the
            logit.
        layer: Name of a tensor or node, None for the last feature map.
        input_size: Height and width of the images it is made for.
        channels: Number of channels of an image.

    Raises:
        ExportError: the model is no such classifier, or the layer is not in it.
    """
    model = normal_form(proto)
    image = _image(model.graph, channels, input_size)
    score, logits, final_operator = _logits(model.graph)
    if layer is None:
        activation = _default_layer(model, image, logits, input_size, channels)
    else:
        activation = _named_layer(model.graph, layer)
    if activation.dtype != ir.DataType.FLOAT or len(dims(activation)) != 4:
        raise ExportError(
            f"layer {activation.name!r} is {activation.dtype} {activation.shape}, "
            "expected float32 [batch, channels, height, width]"
        )
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    return GraphClassifier(
        model=model,
        image=image,
        logits=logits,
        activation=activation,
        layer=str(activation.name),
        image_name=str(image.name),
        final_operator=final_operator,
        score_name=str(score.name),
        source_sha256=digest,
    )


def _image(graph: ir.Graph, channels: int, input_size: int) -> ir.Value:
    candidates = [value for value in graph.inputs if value.shape and len(value.shape) == 4]
    if len(candidates) != 1:
        listed = [f"{value.name} {value.shape}" for value in graph.inputs]
        raise ExportError(
            f"the model's inputs are {listed}, expected one image [batch, channels, height, width]"
        )
    image = candidates[0]
    batch, have, height, width = dims(image)
    if have not in (None, channels):
        raise ExportError(
            f"input {image.name!r} has shape {image.shape}, but mean and std are for {channels} "
            "channels; expected [batch, channels, height, width]"
        )
    if height not in (None, input_size) or width not in (None, input_size):
        raise ExportError(
            f"input {image.name!r} takes {height} x {width} pixels only: pass that as input_size "
            f"(got {input_size}; other than square sizes are not supported)"
        )
    if batch is not None:
        raise ExportError(
            f"input {image.name!r} has a fixed batch of {batch}: export the model with a dynamic "
            "batch axis"
        )
    return image


def with_final_operator(explainer: onnx.ModelProto, operator: str | None) -> onnx.ModelProto:
    """Return an explainer whose `logits` pass the final operator again, to compare results."""
    if operator is None:
        return explainer
    model = ir.from_proto(explainer)
    logits = model.graph.outputs[0]
    op = Emitter(model.graph)
    result = op.Sigmoid(logits) if operator == "Sigmoid" else getattr(op, operator)(logits, axis=1)
    logits.name, result.name = "scores_before", "logits"
    model.graph.outputs[0] = result
    return ir.to_proto(model)


def _logits(graph: ir.Graph) -> tuple[ir.Value, ir.Value, str | None]:
    """Return the model's own result, the logits behind it, and the operator between them."""
    outputs = [o for o in graph.outputs if o.shape is not None and len(o.shape) == 2]
    if len(outputs) != 1:
        listed = [f"{value.name} {value.shape}" for value in graph.outputs]
        raise ExportError(f"the model's outputs are {listed}, expected one [batch, classes]")
    score, node = outputs[0], outputs[0].producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type not in ("Softmax", "LogSoftmax", "Sigmoid"):
        return score, score, None
    logits = node.inputs[0]
    if logits is None or logits.shape is None or len(logits.shape) != 2:
        raise ExportError(f"{describe(node)} does not act on logits [batch, classes]")
    return score, logits, node.op_type


def _named_layer(graph: ir.Graph, layer: str) -> ir.Value:
    for node in graph:
        if node.name == layer:
            return node.outputs[0]
    return find_tensor(graph, layer)


def _default_layer(
    model: ir.Model, image: ir.Value, logits: ir.Value, input_size: int, channels: int
) -> ir.Value:
    candidates = [
        value
        for value in ancestors(model.graph, logits)
        if value.dtype == ir.DataType.FLOAT and value.shape is not None and len(value.shape) == 4
    ]
    names = [str(value.name) for value in candidates]
    measured: Callable[[int], list[tuple[int, ...]]] = lambda size: measure_shapes(  # noqa: E731
        model,
        names,
        {str(image.name): np.zeros((1, channels, size, size), dtype=np.float32)},
    )
    fixed = None not in dims(image)[2:]
    larger = None if fixed else measured(larger_size(input_size))
    return candidates[last_feature_map(measured(input_size), larger)]


def larger_size(input_size: int) -> int:
    """Return a second image size, large enough for every feature map to grow."""
    return input_size + max(96, input_size // 2)


def ancestors(graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
    """Return what a value is computed from, itself included, in order of computation."""
    needed = {value}
    found: list[ir.Value] = []
    for node in reversed(list(graph)):
        if any(output in needed for output in node.outputs):
            needed.update(operand for operand in node.inputs if operand is not None)
            found.extend(reversed(node.outputs))
    return found[::-1]
