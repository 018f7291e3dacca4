"""A classifier given as ONNX: which tensor is the image, the logits, the layer to explain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import ArrayLike

from klieg.errors import ExportError
from klieg.export.autodiff.emitter import Emitter, dims
from klieg.export.autodiff.gradient import find_tensor
from klieg.export.autodiff.normal_form import normal_form
from klieg.export.classifiers.feature_maps import (
    FeatureMap,
    Shape,
    as_channels_first,
    attention_weights,
    before_last_attention,
    feature_map,
    measure_shapes,
)
from klieg.export.classifiers.image_input import ImageInput, prepare_image, with_dynamic_batch
from klieg.export.classifiers.score import Score, find_score


@dataclass(frozen=True)
class TensorNames:
    """Names of the tensors to use where a model has several candidates; values of other inputs."""

    layer: str | None = None
    """A tensor or node to explain, None for the last feature map."""
    image: str | None = None
    """The input that is the image, None if only one has rank 4."""
    score: str | None = None
    """The output [batch, classes], None if there is only one."""
    fixed_inputs: Mapping[str, ArrayLike] = field(default_factory=dict)
    """A number or an array for every input besides the image."""
    mask: str | None = None
    """The output of a masking model, None without one."""


@dataclass(frozen=True)
class GraphClassifier:
    """A classifier as an ONNX graph in normal form, its tensors found."""

    model: ir.Model
    image: ir.Value
    """float32 [batch, channels, height, width], the only input."""
    score: Score
    activation: ir.Value
    """[batch, k, h, w]."""
    feature_map: FeatureMap
    """How the cells of the layer lie in the original tensor."""
    layer: str
    image_input: ImageInput
    """The image among the inputs of the original."""
    source_sha256: str
    mask: ir.Value | None = None
    """[batch, 1, height, width] float32 in 0..1, of a masking model."""

    @property
    def logits(self) -> ir.Value:
        """[batch, classes] float32."""
        return self.score.logits

    @property
    def fixed_size(self) -> bool:
        """True if it takes images of one size only."""
        return None not in dims(self.image)[2:]


def find_classifier(
    proto: onnx.ModelProto, *, input_size: int, channels: int, names: TensorNames | None = None
) -> GraphClassifier:
    """Find the image, the logits and the layer in a bare ONNX classifier.

    Args:
        proto: A model with an image input [batch, channels, height, width] or
            [batch, height, width, channels] and an output [batch, classes]. A final Softmax or
            Sigmoid is stepped over: the score explained is the logit.
        input_size: Height and width of the images it is made for.
        channels: Number of channels of an image.
        names: Which tensors to use where there are several candidates.

    Raises:
        ExportError: the model is no such classifier, or the layer is not in it.
        OptionError: an input besides the image has no value.
    """
    names = names or TensorNames()
    model, image, info, score = _prepared(proto, input_size, channels, names)
    candidates = (
        _candidates(model.graph, score.logits)
        if names.layer is None
        else [_named_layer(model.graph, names.layer)]
    )
    shapes, larger = _measured(model, image, candidates, input_size, channels)
    value, found = _last_feature_map(model.graph, candidates, shapes, larger, names.layer)
    activation = as_channels_first(model.graph, value, found)
    return GraphClassifier(
        model=model,
        image=image,
        score=score,
        activation=activation,
        feature_map=found,
        layer=str(value.name),
        image_input=info,
        source_sha256=hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest(),
        mask=None if names.mask is None else find_tensor(model.graph, names.mask),
    )


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data; ExportError if it is none."""
    try:
        return onnx.load(path, load_external_data=True)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ExportError(f"cannot read {path} as an ONNX model: {error}") from error


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


def larger_size(input_size: int) -> int:
    """Return a second image size, large enough for every feature map to grow."""
    return input_size + max(96, input_size // 2)


def _prepared(
    proto: onnx.ModelProto, input_size: int, channels: int, names: TensorNames
) -> tuple[ir.Model, ir.Value, ImageInput, Score]:
    flexible, one_by_one = with_dynamic_batch(proto, names.image)
    named_node = (list(n.output[:1]) for n in proto.graph.node if n.name and n.name == names.layer)
    keep = [*next(named_node, []), *([names.layer] if names.layer else [])]
    model = normal_form(flexible, keep=keep)
    image, info = prepare_image(
        model.graph,
        channels=channels,
        input_size=input_size,
        name=names.image,
        fixed_inputs=names.fixed_inputs,
        one_by_one=one_by_one,
    )
    return model, image, info, find_score(model.graph, names.score)


def _candidates(graph: ir.Graph, logits: ir.Value) -> list[ir.Value]:
    """Return the tensors before the logits that may be feature maps, in order of computation."""
    weights = attention_weights(graph)
    return [
        value
        for value in ancestors(graph, logits)
        if value.shape is not None
        and len(value.shape) in (3, 4)
        and value.dtype is not None
        and value.dtype.is_floating_point()
        and value not in weights
    ]


def _named_layer(graph: ir.Graph, layer: str) -> ir.Value:
    for node in graph:
        if node.name == layer:
            return node.outputs[0]
    return find_tensor(graph, layer)


Shapes = list[tuple[int, ...]]


def _measured(
    model: ir.Model, image: ir.Value, candidates: list[ir.Value], input_size: int, channels: int
) -> tuple[Shapes, Shapes | None]:
    """Return the shapes for an image of the model's size and for a larger one.

    A model may claim to take images of any size and not do so; then its size is fixed here.
    """
    names = [str(value.name) for value in candidates]

    def measure(batch: int, size: int) -> Shapes:
        blank = np.zeros((batch, channels, size, size), dtype=np.float32)
        return measure_shapes(model, names, {str(image.name): blank})

    shapes = measure(1, input_size)
    try:
        measure(2, input_size)
    except ExportError as error:
        raise ExportError(
            f"the model does not take two images at once: export it with a dynamic batch axis "
            f"({error})"
        ) from error
    if None not in dims(image)[2:]:
        return shapes, None
    try:
        return shapes, measure(1, larger_size(input_size))
    except ExportError:
        image.shape = ir.Shape([*list(image.shape or [])[:2], input_size, input_size])
        return shapes, None


def _last_feature_map(
    graph: ir.Graph,
    candidates: list[ir.Value],
    shapes: list[tuple[int, ...]],
    larger: list[tuple[int, ...]] | None,
    layer: str | None,
) -> tuple[ir.Value, FeatureMap]:
    attended = before_last_attention(graph)
    for index in reversed(range(len(candidates))):
        value = candidates[index]
        second: Shape | None = None if larger is None else larger[index]
        found = feature_map(
            shapes[index], second, before_attention=layer is not None or value in attended
        )
        if found is not None:
            return value, found
    if layer is not None:
        raise ExportError(f"layer {layer!r} has shape {list(shapes[0])}, {EXPECTED}")
    raise ExportError(f"found no feature map on the way to the logits, {EXPECTED}")


EXPECTED: Final = (
    "expected [batch, channels, rows, columns], [batch, rows, columns, channels] or a square grid "
    "of tokens [batch, tokens, channels] that grows with the image: name the layer to explain"
)


def ancestors(graph: ir.Graph, value: ir.Value) -> list[ir.Value]:
    """Return the values that a value depends on, itself included, in order of computation."""
    needed = {value}
    found: list[ir.Value] = []
    for node in reversed(list(graph)):
        if any(output in needed for output in node.outputs):
            needed.update(operand for operand in node.inputs if operand is not None)
            found.extend(reversed(node.outputs))
    return found[::-1]
