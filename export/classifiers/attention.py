"""Where a graph attends: a Softmax over the last axis of products of rank 3 or more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import onnx_ir as ir

from klieg.export.autodiff.emitter import dims

_POINTWISE: Final = frozenset(
    {"Add", "Cast", "Div", "Dropout", "Identity", "Mul", "Softmax", "Sub", "Where"}
)


def attention_weights(graph: ir.Graph) -> frozenset[ir.Value]:
    """Return the tensors that hold attention weights, before and after their Softmax.

    They are square like feature maps, and grow with the image, but their axes are tokens.
    """
    found: set[ir.Value] = set()
    for softmax in _attention(graph):
        found.update(softmax.outputs)
        waiting = [softmax.inputs[0]]
        while waiting:
            value = waiting.pop()
            if value is None or value in found or value.shape is None:
                continue
            found.add(value)
            node = value.producer()
            if node is not None and node.op_type in _POINTWISE:
                waiting.extend(node.inputs)
        following = [softmax.outputs[0]]
        while following:
            for node in following.pop().consumers():
                if node.op_type in _POINTWISE and node.outputs[0] not in found:
                    found.add(node.outputs[0])
                    following.append(node.outputs[0])
    return frozenset(found)


def before_last_attention(graph: ir.Graph) -> frozenset[ir.Value]:
    """Return the values that the last attention is computed from, all of whose tokens matter."""
    last = None
    for last in _attention(graph):  # noqa: B007 (the last one is wanted)
        pass
    if last is None:
        return frozenset()
    needed = set(last.inputs)
    for node in reversed(list(graph)):
        if any(output in needed for output in node.outputs):
            needed.update(node.inputs)
    return frozenset(value for value in needed if value is not None)


def _attention(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if node.op_type != "Softmax" or node.domain or node.outputs[0].shape is None:
            continue
        rank = len(dims(node.outputs[0]))
        axis = node.attributes.get("axis")
        if rank >= 3 and (-1 if axis is None else axis.as_int()) % rank == rank - 1:
            yield node
