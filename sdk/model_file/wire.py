"""The facts of an ONNX file, read from its bytes: no package for it needed, nothing executed.

An ONNX file is a protobuf message. This walks its wire format, far enough to list inputs, outputs
and metadata, and to find every tensor: one whose content lies outside the file is refused, because
an engine would open whatever path it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from klieg.errors import ExplainerFileError, UnsafeFileError

MAX_DEPTH: Final = 32
"""Nesting of sub-graphs; real models have two or three, a hostile file has thousands."""

DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    8: "string", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    16: "bfloat16",
}  # fmt: skip


@dataclass(frozen=True)
class TensorType:
    """Type of an input or output."""

    dtype: str
    shape: tuple[int | str | None, ...]
    """Fixed sizes as numbers, others by their name if they have one."""


@dataclass(frozen=True)
class OnnxFacts:
    """What an ONNX file declares."""

    opset: int
    metadata: Mapping[str, str]
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    node_count: int


def read_onnx(data: bytes) -> OnnxFacts:
    """Read the facts of an ONNX file.

    Args:
        data: The whole file.

    Raises:
        ExplainerFileError: the bytes are no ONNX file.
        UnsafeFileError: a tensor's content lies outside the file.
    """
    try:
        model = Message(memoryview(data))
        graphs = model.messages(7)
        if len(graphs) != 1:
            raise ExplainerFileError(f"not an ONNX file: it holds {len(graphs)} graphs, expected 1")
        _check_graph(graphs[0], 0)
        for function in model.messages(25):
            _check_nodes(function, 7, 0)
            for attribute in function.messages(11):
                _check_attribute(attribute, 0)
        for training in model.messages(20):
            for graph in (*training.messages(1), *training.messages(2)):
                _check_graph(graph, 0)
        return _facts(model, graphs[0])
    except (_MalformedError, UnicodeDecodeError) as error:
        raise ExplainerFileError(f"not a valid ONNX file: {error}") from error


class _MalformedError(Exception):
    """The bytes are no protobuf message of the expected kind."""


class Message:
    """One protobuf message: its fields by number, nested messages still as bytes."""

    def __init__(self, data: memoryview) -> None:
        self._numbers: dict[int, list[int]] = {}
        self._bytes: dict[int, list[memoryview]] = {}
        for field, value in fields(data):
            if isinstance(value, int):
                self._numbers.setdefault(field, []).append(value)
            else:
                self._bytes.setdefault(field, []).append(value)

    def texts(self, field: int) -> list[str]:
        """Return all strings of a field."""
        return [str(value, "utf-8") for value in self._bytes.get(field, ())]

    def has(self, field: int) -> bool:
        """Return True if the field is there."""
        return field in self._numbers or field in self._bytes

    def messages(self, field: int) -> list[Message]:
        """Return the messages of a field."""
        return [Message(value) for value in self._bytes.get(field, ())]

    def number(self, field: int) -> int | None:
        """Return the last number of a field."""
        return self._numbers[field][-1] if field in self._numbers else None

    def text(self, field: int) -> str:
        """Return the last string of a field, empty if there is none."""
        return str(self._bytes[field][-1], "utf-8") if field in self._bytes else ""


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value): a number for varints, bytes for everything with a length."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        field, wire_type = key >> 3, key & 7
        if field == 0:
            raise _MalformedError(f"field number 0 at byte {position}")
        if wire_type == 0:
            number, position = _varint(data, position)
            yield field, number
            continue
        if wire_type == 2:
            length, position = _varint(data, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise _MalformedError(f"wire type {wire_type} at byte {position}")
        if length > end - position:
            raise _MalformedError(f"a field of {length} bytes with {end - position} left")
        if wire_type == 2:
            yield field, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _MalformedError("the file ends inside a number")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise _MalformedError(f"a number longer than 10 bytes at byte {position}")


def _check_graph(graph: Message, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ExplainerFileError(f"graphs nested more than {MAX_DEPTH} deep")
    for tensor in graph.messages(5):
        _check_tensor(tensor)
    for sparse in graph.messages(15):
        _check_sparse(sparse)
    _check_nodes(graph, 1, depth)


def _check_nodes(parent: Message, field: int, depth: int) -> None:
    for node in parent.messages(field):
        for attribute in node.messages(5):
            _check_attribute(attribute, depth)


def _check_attribute(attribute: Message, depth: int) -> None:
    for tensor in (*attribute.messages(5), *attribute.messages(10)):
        _check_tensor(tensor)
    for sparse in (*attribute.messages(22), *attribute.messages(23)):
        _check_sparse(sparse)
    for graph in (*attribute.messages(6), *attribute.messages(11)):
        _check_graph(graph, depth + 1)


def _check_sparse(sparse: Message) -> None:
    for tensor in (*sparse.messages(1), *sparse.messages(2)):
        _check_tensor(tensor)


def _check_tensor(tensor: Message) -> None:
    if tensor.number(14) or tensor.has(13):
        entries = {entry.text(1): entry.text(2) for entry in tensor.messages(13)}
        raise UnsafeFileError(
            f"tensor {tensor.text(8)!r} keeps its content outside the file, at "
            f"{entries.get('location', '?')!r}; an explainer must be one file: export it again"
        )


def _facts(model: Message, graph: Message) -> OnnxFacts:
    opsets = [o.number(2) or 0 for o in model.messages(8) if o.text(1) in ("", "ai.onnx")]
    if not opsets:
        raise ExplainerFileError("not an ONNX file: it names no operator set")
    metadata: dict[str, str] = {}
    for entry in model.messages(14):
        if entry.text(1) in metadata:
            raise ExplainerFileError(f"metadata key {entry.text(1)!r} stands there twice")
        metadata[entry.text(1)] = entry.text(2)
    weights = {tensor.text(8) for tensor in graph.messages(5)}
    inputs = {i.text(1): _tensor_type(i) for i in graph.messages(11) if i.text(1) not in weights}
    outputs = {o.text(1): _tensor_type(o) for o in graph.messages(12)}
    return OnnxFacts(opsets[0], metadata, inputs, outputs, len(graph.messages(1)))


def _tensor_type(value: Message) -> TensorType:
    for kind in value.messages(2):
        for tensor in kind.messages(1):
            dimensions = [d for shape in tensor.messages(2) for d in shape.messages(1)]
            sizes = tuple(d.number(1) if d.has(1) else d.text(2) or None for d in dimensions)
            return TensorType(DTYPES.get(tensor.number(1) or 0, "unknown"), sizes)
    return TensorType("unknown", ())
