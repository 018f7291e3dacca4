"""Several targets per image: the graph runs once per image up to the layer, then once per target.

The layer's activation is repeated n times along the batch, n = targets / images, and everything
behind it reads the repeated one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import Emitter, dims, shape_nodes
from klieg.export.classifiers.onnx_classifier import ancestors


class NotRepeatableError(Exception):
    """A value behind the layer depends on the batch in an unknown way."""


def repeat_behind(
    op: Emitter,
    graph: ir.Graph,
    *,
    image: ir.Value,
    target: ir.Value,
    layer: ir.Value,
    logits: ir.Value,
) -> ir.Value:
    """Repeat the layer, and other values that nodes behind it read, once per target.

    What the logits do not need, the head of a masking model, stays at one row per image: of values
    that are repeated it reads the first of each image.

    Args:
        op: Emitter of the graph.
        graph: The classifier, nodes in topological order; it is changed.
        image: Its input [batch, ...].
        target: The classes [batch * n], n of the first image, then n of the second, ...
        layer: Value [batch, k, h, w].
        logits: Value [batch, classes].

    Returns:
        The repeated layer [batch * n, k, h, w], which takes its place for all that reads it.

    Raises:
        NotRepeatableError: another value crosses from before the layer to behind it, and how it
            depends on the batch is unknown; the graph is unchanged but for unused nodes.
    """
    needed = set(ancestors(graph, logits))
    behind: list[ir.Node] = []
    aside: list[ir.Node] = []
    for node in _behind(graph, layer):
        (aside if needed.isdisjoint(node.outputs) else behind).append(node)
    repeater = _Repeater(op, str(image.shape[0]) if image.shape else "", target, layer)
    repeated = repeater.repeated(layer)
    substitutes = {layer: repeated}
    for crossing in _crossing(behind, layer):
        substitutes[crossing] = repeater.substitute(crossing)
    inside = {output for node in behind for output in node.outputs}
    read = dict.fromkeys(v for node in aside for v in node.inputs if v is not None and v in inside)
    first = {value: repeater.first_of_each(value) for value in read}
    _replace(behind, substitutes)
    _replace(aside, first)
    graph.sort()
    return repeated


def _replace(nodes: list[ir.Node], substitutes: Mapping[ir.Value, ir.Value]) -> None:
    for node in nodes:
        for index, operand in enumerate(node.inputs):
            if operand is not None and operand in substitutes:
                node.replace_input_with(index, substitutes[operand])


def first_of_each(op: Emitter, value: ir.Value, layer: ir.Value) -> ir.Value:
    """Return the rows [batch, ...] of the first target of each image; all have the same.

    Args:
        op: Emitter of the graph.
        value: Repeated value [batch * n, ...].
        layer: The layer before it is repeated [batch, k, h, w].
    """
    images = op.Shape(layer, start=0, end=1)
    grouped = op.Reshape(value, op.Concat(images, [-1], op.shape(value, 1), axis=0))
    return op.Gather(grouped, 0, axis=1)


@dataclass
class _Repeater:
    """Substitutes for values [batch, ...] that nodes behind the layer read: one row per target."""

    op: Emitter
    batch: str  # symbol of the batch axis
    target: ir.Value
    layer: ir.Value

    def __post_init__(self) -> None:
        self._made: dict[ir.Value, ir.Value] = {}

    def substitute(self, value: ir.Value) -> ir.Value:
        """Return the substitute [batch * n, ...] of a value from before the layer."""
        if shape_nodes(value) is not None:
            return self._recomputed(value)
        self._check_rows(value)
        return self.repeated(value)

    def first_of_each(self, value: ir.Value) -> ir.Value:
        """Return the rows [batch, ...] of the first targets of a repeated value."""
        if shape_nodes(value) is not None:
            raise NotRepeatableError(value.name)
        self._check_rows(value)
        return first_of_each(self.op, value, self.layer)

    def _check_rows(self, value: ir.Value) -> None:
        """Raise NotRepeatableError unless the first axis of a value, and no other, is the batch."""
        if value.shape is None or self._batch_axes(value, 0, len(value.shape)) != [0]:
            raise NotRepeatableError(value.name)

    def repeated(self, value: ir.Value) -> ir.Value:
        """Repeat a value [batch, ...] along the batch."""
        op, rest = self.op, dims(value)[1:]
        count = op.Div(op.Shape(self.target), op.Shape(self.layer, start=0, end=1))
        grouped = op.Unsqueeze(value, [1])
        expanded = op.Expand(grouped, op.Concat([1], count, [1] * len(rest), axis=0))
        sizes = op.shape(value, 1)
        shape = [-1, *sizes] if isinstance(sizes, np.ndarray) else op.Concat([-1], sizes, axis=0)
        result = op.Reshape(expanded, shape)
        grouped.shape = ir.Shape([None, 1, *rest])
        expanded.shape = ir.Shape([None, None, *rest])
        result.shape = ir.Shape([None, *rest])
        return result

    def _recomputed(self, value: ir.Value) -> ir.Value:
        """Compute a value that depends on sizes only, such as a shape, for batch * n rows."""
        node = value.producer()
        if node is None:
            return value  # an initializer
        if value not in self._made:
            self._made[value] = (
                self._shape(node) if node.op_type == "Shape" else self._again(node, value)
            )
        return self._made[value]

    def _again(self, node: ir.Node, value: ir.Value) -> ir.Value:
        inputs = [None if operand is None else self._recomputed(operand) for operand in node.inputs]
        if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
            return value
        if len(node.outputs) > 1 or node.domain:
            raise NotRepeatableError(value.name)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        result: ir.Value = getattr(self.op, node.op_type)(*inputs, **attributes)
        result.type = value.type
        result.shape = ir.Shape(dims(value)) if value.shape is not None else None
        return result

    def _shape(self, node: ir.Node) -> ir.Value:
        """Return the sizes that a Shape node reports, with batch * n for batch."""
        op, measured = self.op, node.inputs[0]
        if measured is None or measured.shape is None:
            raise NotRepeatableError(node.name)
        given = {name: attribute.as_int() for name, attribute in node.attributes.items()}
        start, end, _ = slice(given.get("start", 0), given.get("end")).indices(len(measured.shape))
        batch_axes = self._batch_axes(measured, start, end)
        if not batch_axes:
            return node.outputs[0]
        if batch_axes != [0]:
            raise NotRepeatableError(node.name)
        if end == 1:
            return op.Shape(self.target)
        return op.Concat(op.Shape(self.target), op.Shape(measured, start=1, end=end), axis=0)

    def _batch_axes(self, value: ir.Value, start: int, end: int) -> list[int]:
        """Return which of some axes have the length of the batch."""
        axes = []
        for axis in range(start, end):
            size = value.shape[axis] if value.shape is not None else None
            if isinstance(size, int):
                continue
            symbol = None if size is None else size.value
            if symbol == self.batch:
                axes.append(axis)
            elif symbol is None or symbol.startswith("unk__") or self._mentions_batch(symbol):
                raise NotRepeatableError(value.name)
        return axes

    def _mentions_batch(self, expression: str) -> bool:
        return re.search(rf"\b{re.escape(self.batch)}\b", expression) is not None


def _behind(graph: ir.Graph, layer: ir.Value) -> list[ir.Node]:
    """Return the nodes that depend on the layer."""
    reached, nodes = {layer}, []
    for node in graph:
        if any(value in reached for value in node.inputs):
            reached.update(node.outputs)
            nodes.append(node)
    return nodes


def _crossing(behind: list[ir.Node], layer: ir.Value) -> Iterator[ir.Value]:
    """Yield the values from before the layer that nodes behind it read, besides the layer."""
    inside = {layer, *(output for node in behind for output in node.outputs)}
    for node in behind:
        if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
            raise NotRepeatableError(node.name)
        for value in node.inputs:
            if value is not None and value not in inside and not value.is_initializer():
                inside.add(value)
                yield value
