"""Building the graph of an explainer file: normalisation in front, backward passes behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from klieg.export.autodiff.emitter import Emitter, dims, graph_values
from klieg.export.autodiff.engine import Cotangent
from klieg.export.autodiff.gradient import add_target, find_tensor, one_hot_seed
from klieg.export.classifiers.onnx_classifier import GraphClassifier
from klieg.export.derived_weights import NOTE, as_note
from klieg.export.instrument.outputs import BackwardPass
from klieg.export.instrument.repeat import first_of_each, repeat_behind
from klieg.model_file.outputs import OUTPUTS

_RESERVED: Final = frozenset({"image", "target", *OUTPUTS})


def instrument(
    classifier: GraphClassifier,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    outputs: Sequence[str] = ("gradient",),
    several_targets: bool = False,
) -> ir.Model:
    """Turn a classifier into an instrumented classifier.

    Args:
        classifier: A classifier whose input are normalised images; it is not changed.
        mean: Mean of each channel in 0..1 units.
        std: Standard deviation of each channel in 0..1 units.
        outputs: What to compute besides logits and activation, keys of `BACKWARD`.
        several_targets: True to take n targets per image, so that everything behind the layer runs
            once per target.

    Returns:
        A model with inputs `image` (0..255) and `target`, outputs `logits`, `activation`, those
        asked for, and `mask` if the classifier has one; `gradient` has h = w = 1 where it is the
        same everywhere.

    Raises:
        NotRepeatableError: `several_targets`, but see `repeat_behind`.
        UnsupportedOperatorError: an operator behind the layer has no rule.
    """
    model = classifier.model.clone()
    graph = model.graph
    image, logits, layer = (
        find_tensor(graph, str(value.name))
        for value in (classifier.image, classifier.logits, classifier.activation)
    )
    masks = (
        {} if classifier.mask is None else {"mask": find_tensor(graph, str(classifier.mask.name))}
    )
    _free_names(graph, _RESERVED)
    graph.outputs.clear()
    graph.outputs.extend([logits, layer, *masks.values()])
    passes.RemoveUnusedNodesPass()(model)
    op = Emitter(graph)
    raw = _normalise_inside(op, graph, image, mean, std)
    target = add_target(graph, logits)
    activation = layer
    if several_targets:
        layer = repeat_behind(op, graph, image=raw, target=target, layer=activation, logits=logits)
    seed = one_hot_seed(op, logits, target)
    backward = BackwardPass(op, graph, logits, seed, layer, raw)
    found = {name: backward(name) for name in outputs}
    per_image = first_of_each(op, logits, activation) if several_targets else logits
    values = {name: cotangent.value for name, cotangent in found.items()}
    _set_outputs(op, graph, {"logits": per_image, "activation": activation, **values, **masks})
    ir.passes.Sequential(
        passes.TopologicalSortPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    )(model)
    kept = {name: d for name, d in op.derived_weights.items() if name in graph.initializers}
    model.metadata_props[NOTE] = as_note(kept)
    _declare_shapes(graph, found, classes=dims(logits)[1], several_targets=several_targets)
    return model


def _set_outputs(op: Emitter, graph: ir.Graph, outputs: Mapping[str, ir.Value]) -> None:
    graph.outputs.clear()
    for name, value in outputs.items():
        while value in graph.outputs:  # two outputs may be equal: without a Relu, for one
            value = op.Identity(value)
        value.name = name
        graph.outputs.append(value)


def _free_names(graph: ir.Graph, names: Collection[str]) -> None:
    """Rename the tensors of the model whose names the explainer file reserves."""
    taken = {value.name for value in graph_values(graph)}
    for value in graph_values(graph):
        if value.name in names:
            new_name = f"{value.name}_"
            while new_name in taken:
                new_name += "_"
            taken.add(new_name)
            value.name = new_name


def _normalise_inside(
    op: Emitter, graph: ir.Graph, image: ir.Value, mean: Sequence[float], std: Sequence[float]
) -> ir.Value:
    """Replace the normalised input by `image` in 0..255: (image - 255 mean) / (255 std)."""
    per_channel = (1, len(mean), 1, 1)
    centre = (255 * np.array(mean, dtype=np.float64)).astype(np.float32).reshape(per_channel)
    scale = (1 / (255 * np.array(std, dtype=np.float64))).astype(np.float32).reshape(per_channel)
    raw = ir.Value(name="image", shape=image.shape, type=image.type)
    centred = op.Sub(raw, centre)
    normalised = op.Mul(centred, scale)
    centred.shape = normalised.shape = image.shape
    image.replace_all_uses_with(normalised)
    graph.inputs.remove(image)
    graph.inputs.insert(0, raw)
    graph.sort()  # the first nodes of the classifier read what was just written
    return raw


def _declare_shapes(
    graph: ir.Graph,
    found: Mapping[str, Cotangent],
    *,
    classes: int | None,
    several_targets: bool,
) -> None:
    """Declare the shapes of inputs and outputs; engines infer those of other tensors."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None
    image, target = graph.inputs
    logits, activation = graph.outputs[:2]
    rows = "targets" if several_targets else "batch"
    image.shape = _declared(dims(image), ["batch", None, "height", "width"])
    activation.shape = _declared(dims(activation), ["batch", None, "rows", "columns"])
    target.shape = ir.Shape([rows])
    logits.shape = ir.Shape(["batch", classes])
    logits.dtype = ir.DataType.FLOAT
    for value in graph.outputs[2:]:
        form = OUTPUTS[str(value.name)].form
        if form == "mask":
            value.shape = ir.Shape(["batch", 1, *list(image.shape)[2:]])
            value.dtype = ir.DataType.FLOAT
            continue
        like = image if form == "image" else activation
        constant = found[str(value.name)].constant_axes
        sizes = [1 if axis in constant else size for axis, size in enumerate(like.shape or [])]
        value.shape = ir.Shape(["batch" if like is image else rows, *sizes[1:]])
        value.dtype = ir.DataType.FLOAT


def _declared(sizes: Sequence[int | None], names: Sequence[str | None]) -> ir.Shape:
    return ir.Shape(
        [
            name if size is None or name == "batch" else size
            for name, size in zip(names, sizes, strict=True)
        ]
    )
