"""Inspection of a bare classifier before its export: image, score, feature maps, rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir

from klieg.errors import ExportError, GradientError, OptionError
from klieg.export.autodiff.emitter import dims
from klieg.export.autodiff.engine import operators_without_rule
from klieg.export.autodiff.gradient import differentiate
from klieg.export.autodiff.normal_form import normal_form, opset_of
from klieg.export.autodiff.rules.tables import STANDARD_RULES
from klieg.export.classifiers.feature_maps import (
    attention_weights,
    before_last_attention,
    feature_map,
    measure_shapes,
)
from klieg.export.classifiers.onnx_classifier import GraphClassifier, ancestors, find_classifier
from klieg.export.derived_weights import WRITTEN
from klieg.model_file.onnx_file import DTYPES

USUAL_SIZE: Final = 224
USUAL_CHANNELS: Final = (1, 3, 4)


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]
    """Fixed sizes as numbers, others by their name if it is one, None for formulas."""


@dataclass(frozen=True)
class MeasuredMap:
    """A tensor [batch, k, h, w], [batch, h, w, k] or [batch, tokens, k]."""

    name: str
    operator: str
    """Operator type that computes it."""
    shape: tuple[int, ...]
    """Measured on one image."""


@dataclass(frozen=True)
class WithoutRule:
    """A node on the way from the image to the score that cannot be differentiated."""

    node: str
    operator: str
    computes: str
    behind_layer: bool
    """True if it lies behind the default layer, where it prevents the export."""


@dataclass(frozen=True)
class Inspection:
    """The findings in a model; None and () where nothing was found."""

    opset: int
    nodes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    image_size: int
    """Height and width in pixels that the feature maps were measured at."""
    image: str | None = None
    score: str | None = None
    """The tensor explained: an output, or what the final operator reads."""
    classes: int | None = None
    final_operator: str | None = None
    """Softmax, LogSoftmax or Sigmoid if the model ends with it and it is stepped over."""
    feature_maps: tuple[MeasuredMap, ...] = ()
    """Those on the way to the score, in order of computation."""
    default_layer: str | None = None
    without_rule: tuple[WithoutRule, ...] = ()
    problems: tuple[str, ...] = ()
    """Why it cannot be exported as it is."""


def inspect_model(model: onnx.ModelProto) -> Inspection:
    """Look into a bare ONNX classifier; it runs on blank images.

    Works for models that cannot be exported too: `problems` says why, the rest is what was found.

    Raises:
        GradientError: the model names no opset.
    """
    inputs, outputs = ([_tensor(v) for v in values] for values in _interface(model))
    channels, size = _image_of(inputs)
    facts = Inspection(opset_of(model), len(model.graph.node), tuple(inputs), tuple(outputs), size)
    try:
        found = find_classifier(model, input_size=size, channels=channels)
    except (ExportError, OptionError) as error:
        return _unexportable(model, replace(facts, problems=(str(error),)))
    return _exportable(found, facts)


def _exportable(found: GraphClassifier, facts: Inspection) -> Inspection:
    maps = _feature_maps(found.model, [found.logits], facts.image_size)
    missing = _without_rule(found)
    return replace(
        facts,
        image=found.image_input.name,
        score=found.logits.name,
        classes=dims(found.logits)[1],
        final_operator=found.score.final_operator,
        feature_maps=maps,
        default_layer=found.layer,
        without_rule=missing,
        problems=_obstacles(found, missing),
    )


def _unexportable(model: onnx.ModelProto, facts: Inspection) -> Inspection:
    """Return the findings in a model that cannot be exported."""
    images = [tensor.name for tensor in facts.inputs if len(tensor.shape) == 4]
    scores = [tensor for tensor in facts.outputs if len(tensor.shape) == 2]
    if len(images) == 1:
        facts = replace(facts, image=images[0])
    if len(scores) == 1:
        facts = replace(facts, score=scores[0].name)
    try:
        graph_model = normal_form(model)
        maps = _feature_maps(graph_model, graph_model.graph.outputs, facts.image_size)
    except ExportError as error:
        further = () if str(error) in facts.problems else (str(error),)
        return replace(facts, problems=facts.problems + further)
    return replace(facts, feature_maps=maps)


def _feature_maps(
    model: ir.Model, targets: Sequence[ir.Value], size: int
) -> tuple[MeasuredMap, ...]:
    leading = {value for target in targets for value in ancestors(model.graph, target)}
    leading -= attention_weights(model.graph)
    attended = before_last_attention(model.graph)
    candidates = [
        (value, node.op_type)
        for node in model.graph
        for value in node.outputs
        if value in leading
        and value.name
        and value.dtype is not None
        and value.dtype.is_floating_point()
        and value.shape is not None
        and len(value.shape) in (3, 4)
        and not value.name.startswith(WRITTEN)
    ]
    feeds = {str(value.name): _blank(value, size) for value in model.graph.inputs}
    shapes = measure_shapes(model, [str(value.name) for value, _ in candidates], feeds)
    return tuple(
        MeasuredMap(str(value.name), operator, shape)
        for (value, operator), shape in zip(candidates, shapes, strict=True)
        if feature_map(shape, None, before_attention=value in attended) is not None
    )


def _without_rule(found: GraphClassifier) -> tuple[WithoutRule, ...]:
    graph, score = found.model.graph, found.logits
    behind, everywhere = (
        operators_without_rule(graph, score=score, wrt=wrt, rules=STANDARD_RULES)
        for wrt in (found.activation, found.image)
    )
    return tuple(
        WithoutRule(
            node=node.name or "",
            operator=f"{node.domain}::{node.op_type}" if node.domain else node.op_type,
            computes=str(node.outputs[0].name),
            behind_layer=node in behind,
        )
        for node in everywhere
    )


def _obstacles(found: GraphClassifier, missing: Sequence[WithoutRule]) -> tuple[str, ...]:
    """Say why the gradient at the default layer cannot be had; this changes the graph."""
    if any(operator.behind_layer for operator in missing):
        return ("an operator behind the default layer has no gradient rule",)
    try:
        differentiate(found.model.graph, score=found.logits, wrt=found.activation)
    except GradientError as error:
        return (str(error),)
    return ()


def _interface(
    model: onnx.ModelProto,
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return inputs, list(model.graph.output)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    shape = tuple(
        d.dim_value if d.HasField("dim_value") else _readable(d.dim_param) for d in tensor.shape.dim
    )
    return Tensor(value.name, DTYPES.get(tensor.elem_type, "unknown"), shape)


def _readable(name: str) -> str | None:
    """Return the name of an axis unless it is a formula, as torch writes them."""
    return name if name.replace("_", "").isalnum() else None


def _image_of(inputs: Sequence[Tensor]) -> tuple[int, int]:
    """Return channels and size of the image, the usual ones where the inputs leave them open."""
    for tensor in inputs:
        if len(tensor.shape) == 4:
            _, *axes = tensor.shape
            last = axes[0] not in USUAL_CHANNELS and axes[2] in USUAL_CHANNELS
            channels, side = (axes[2], axes[0]) if last else (axes[0], axes[1])
            return (
                channels if isinstance(channels, int) else 3,
                side if isinstance(side, int) else USUAL_SIZE,
            )
    return 3, USUAL_SIZE


def _blank(value: ir.Value, size: int) -> np.ndarray[Any, Any]:
    """Return zeros for an input: one sample, unknown spatial axes of `size`."""
    image = value.shape is not None and len(value.shape) == 4
    shape = [
        length if length is not None else size if image and axis > 1 else 1
        for axis, length in enumerate(dims(value))
    ]
    return np.zeros(shape, dtype=(value.dtype or ir.DataType.FLOAT).numpy())
