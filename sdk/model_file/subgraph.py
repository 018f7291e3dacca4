"""An ONNX model cut down to some of its outputs, by its bytes alone.

ONNX Runtime computes all of a graph, whatever outputs are asked for: its run option that says
otherwise works in training builds only. So each set of outputs gets a graph of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from klieg.model_file.onnx_file import NAME, Attribute, Graph, Model, Node, Tensor
from klieg.model_file.wire import Message, encoded, fields


def subgraph(data: bytes, outputs: Iterable[str]) -> bytes:
    """Return a model with some of its outputs and only what they are computed from.

    Args:
        data: A model that `read_onnx` has accepted; its inputs all stay.
        outputs: Names of outputs of it.
    """
    parts: list[bytes | memoryview] = []
    for field, value in fields(memoryview(data)):
        if field == Model.GRAPH and not isinstance(value, int):
            parts.extend(encoded(field, b"".join(_cut(value, set(outputs)))))
        else:
            parts.extend(encoded(field, value))
    return b"".join(parts)


def _cut(graph: memoryview, wanted: set[str]) -> Iterator[bytes | memoryview]:
    entries = list(fields(graph))
    needed, kept = set(wanted), set()
    for number, (field, value) in reversed(list(enumerate(entries))):
        if field == Graph.NODE and not isinstance(
            value, int
        ):  # nodes stand in order of computation
            node = Message(value)
            if not needed.isdisjoint(node.texts(Node.OUTPUT)):
                kept.add(number)
                needed.update(_operands(node))
    for number, (field, value) in enumerate(entries):
        if isinstance(value, int) or _stays(field, value, wanted, needed, number in kept):
            yield from encoded(field, value)


def _stays(
    field: int, value: memoryview, wanted: set[str], needed: set[str], computed: bool
) -> bool:
    if field == Graph.NODE:
        return computed
    if field == Graph.INITIALIZER:
        return Message(value).text(Tensor.NAME) in needed
    if field in (Graph.OUTPUT, Graph.VALUE_INFO):
        return Message(value).text(NAME) in (wanted if field == Graph.OUTPUT else needed)
    return True


def _operands(node: Message) -> Iterator[str]:
    """Yield the inputs of a node and what its sub-graphs take from outside."""
    yield from node.texts(Node.INPUT)
    for attribute in node.messages(Node.ATTRIBUTE):
        for inner in (*attribute.messages(Attribute.GRAPH), *attribute.messages(Attribute.GRAPHS)):
            for inner_node in inner.messages(Graph.NODE):
                yield from _operands(inner_node)
            yield from (output.text(NAME) for output in inner.messages(Graph.OUTPUT))
