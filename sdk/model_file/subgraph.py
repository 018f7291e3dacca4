"""An ONNX model cut down to some of its outputs, by its bytes alone.

ONNX Runtime computes all of a graph, whatever outputs are asked for: its run option that says
otherwise works in training builds only. So each set of outputs gets a graph of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from klieg.model_file.wire import Message, fields

GRAPH, NODE, INITIALIZER, OUTPUT, VALUE_INFO = 7, 1, 5, 12, 13
"""Numbers of the fields of a model, and of a graph."""


def subgraph(data: bytes, outputs: Iterable[str]) -> bytes:
    """Return a model with some of its outputs and only what they are computed from.

    Args:
        data: A model that `read_onnx` has accepted; its inputs all stay.
        outputs: Names of outputs of it.
    """
    parts: list[bytes | memoryview] = []
    for field, value in fields(memoryview(data)):
        if field == GRAPH and not isinstance(value, int):
            parts.extend(_encoded(field, b"".join(_cut(value, set(outputs)))))
        else:
            parts.extend(_encoded(field, value))
    return b"".join(parts)


def _cut(graph: memoryview, wanted: set[str]) -> Iterator[bytes | memoryview]:
    entries = list(fields(graph))
    needed, kept = set(wanted), set()
    for number, (field, value) in reversed(list(enumerate(entries))):
        if field == NODE and not isinstance(value, int):  # nodes stand in order of computation
            node = Message(value)
            if not needed.isdisjoint(node.texts(2)):
                kept.add(number)
                needed.update(_operands(node))
    for number, (field, value) in enumerate(entries):
        if isinstance(value, int) or _stays(field, value, wanted, needed, number in kept):
            yield from _encoded(field, value)


def _stays(
    field: int, value: memoryview, wanted: set[str], needed: set[str], computed: bool
) -> bool:
    if field == NODE:
        return computed
    if field == INITIALIZER:
        return Message(value).text(8) in needed
    if field in (OUTPUT, VALUE_INFO):
        return Message(value).text(1) in (wanted if field == OUTPUT else needed)
    return True


def _operands(node: Message) -> Iterator[str]:
    """Yield the inputs of a node and what its sub-graphs take from outside."""
    yield from node.texts(1)
    for attribute in node.messages(5):
        for inner in (*attribute.messages(6), *attribute.messages(11)):
            for inner_node in inner.messages(NODE):
                yield from _operands(inner_node)
            yield from (output.text(1) for output in inner.messages(OUTPUT))


def _encoded(field: int, value: int | bytes | memoryview) -> list[bytes | memoryview]:
    if isinstance(value, int):
        return [_varint(field << 3), _varint(value)]
    return [_varint(field << 3 | 2), _varint(len(value)), value]


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
