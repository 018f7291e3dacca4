"""Building the graph of an explainer file: normalisation in front, gradient behind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from klieg.errors import ExportError
from klieg.export.autodiff.emitter import Emitter, dims, graph_values
from klieg.export.autodiff.gradient import differentiate


def instrument(
    model: ir.Model,
    *,
    image: ir.Value,
    logits: ir.Value,
    activation: ir.Value,
    mean: Sequence[float],
    std: Sequence[float],
) -> ir.Model:
    """Turn a classifier into an instrumented classifier, in place.

    Args:
        model: A classifier in normal form.
        image: Its input of normalised images [batch, channels, height, width].
        logits: Its scores before softmax [batch, classes].
        activation: The feature map to explain [batch, k, h, w].
        mean: Mean of each channel in 0..1 units.
        std: Standard deviation of each channel in 0..1 units.

    Returns:
        The model with inputs `image` (0..255) and `target` and the outputs `logits`, `activation`
        and `gradient`; the gradient has h = w = 1 where it is the same everywhere.
    """
    graph = model.graph
    others = [value.name for value in graph.inputs if value is not image]
    if others:
        raise ExportError(
            f"the model has inputs besides the image: {others}; expected the image only"
        )
    _free_names(graph, {"image", "target", "logits", "activation", "gradient"})
    raw = _normalise_inside(graph, image, mean, std)
    cotangent = differentiate(graph, score=logits, wrt=activation)
    outputs = {"logits": logits, "activation": activation, "gradient": cotangent.value}
    graph.outputs.clear()
    for name, value in outputs.items():
        value.name = name
        graph.outputs.append(value)
    ir.passes.Sequential(
        passes.TopologicalSortPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    )(model)
    _declare_shapes(graph, raw, cotangent.constant_axes)
    return model


def _free_names(graph: ir.Graph, names: set[str]) -> None:
    """Rename tensors of the model that bear a name the explainer file reserves."""
    taken = {value.name for value in graph_values(graph)}
    for value in graph_values(graph):
        if value.name in names:
            new_name = f"{value.name}_"
            while new_name in taken:
                new_name += "_"
            taken.add(new_name)
            value.name = new_name


def _normalise_inside(
    graph: ir.Graph, image: ir.Value, mean: Sequence[float], std: Sequence[float]
) -> ir.Value:
    """Replace the normalised input by `image` in 0..255: (image - 255 mean) / (255 std)."""
    if image.dtype != ir.DataType.FLOAT:
        raise ExportError(f"input {image.name!r} is {image.dtype}, expected float32")
    per_channel = (1, len(mean), 1, 1)
    centre = (255 * np.array(mean, dtype=np.float64)).astype(np.float32).reshape(per_channel)
    scale = (1 / (255 * np.array(std, dtype=np.float64))).astype(np.float32).reshape(per_channel)
    raw = ir.Value(name="image", shape=image.shape, type=image.type)
    op = Emitter(graph)
    normalised = op.Mul(op.Sub(raw, centre), scale)
    image.replace_all_uses_with(normalised)
    graph.inputs.remove(image)
    graph.inputs.insert(0, raw)
    return raw


def _declare_shapes(graph: ir.Graph, image: ir.Value, constant_axes: frozenset[int]) -> None:
    """Give inputs and outputs readable shapes, and drop those in between: engines infer them."""
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None
    target, (logits, activation, gradient) = graph.inputs[1], graph.outputs
    for value, axes in (
        (image, ["batch", None, "height", "width"]),
        (target, ["batch"]),
        (logits, ["batch", None]),
        (activation, ["batch", None, "rows", "columns"]),
    ):
        fixed = dims(value)
        value.shape = ir.Shape(
            [
                name if size is None or name == "batch" else size
                for name, size in zip(axes, fixed, strict=True)
            ]
        )
    gradient.dtype = ir.DataType.FLOAT
    if activation.shape is not None:
        sizes = [1 if axis in constant_axes else s for axis, s in enumerate(activation.shape)]
        gradient.shape = ir.Shape(sizes)
