"""Where a value comes from: from the image's content, or only from constants and sizes."""

from __future__ import annotations

import onnx_ir as ir


def shape_nodes(value: ir.Value) -> list[ir.Node] | None:
    """Return the Shape nodes that a value is computed from, None if content goes into it too.

    A value without content is the same for all images of one size: weights, window positions,
    pooling matrices, the target of a Reshape.
    """
    found: list[ir.Node] = []
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in seen or current.is_initializer():
            continue
        seen.add(current)
        node = current.producer()
        if node is None:
            return None  # an input of the graph
        if any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for a in node.attributes.values()
        ):
            return None  # its sub-graph may take content from outside
        if node.op_type == "Shape":
            found.append(node)
        else:
            waiting.extend(operand for operand in node.inputs if operand is not None)
    return found


def has_content(value: ir.Value) -> bool:
    """Return whether what the image shows goes into a value."""
    return shape_nodes(value) is None
