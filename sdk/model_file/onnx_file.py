"""The facts of an ONNX file, read from its bytes: no package for it needed, nothing executed.

This lists inputs, outputs and metadata, and finds every tensor: one whose content lies outside the
file is refused, because an engine would open whatever path it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from klieg.errors import ExplainerFileError, UnsafeFileError
from klieg.model_file.wire import MalformedError, Message

MAX_DEPTH: Final = 32
"""Nesting of sub-graphs; real models have two or three, a hostile file has thousands."""

DTYPES: Final = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}


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


class Model:
    """Numbers of the fields of a model; likewise below."""

    GRAPH, OPERATOR_SET, METADATA, TRAINING, FUNCTION = 7, 8, 14, 20, 25


class Graph:
    """A graph."""

    NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO, SPARSE_INITIALIZER = 1, 5, 11, 12, 13, 15


class Node:
    """A node of a graph or function."""

    INPUT, OUTPUT, ATTRIBUTE = 1, 2, 5


class Attribute:
    """An attribute of a node."""

    TENSOR, GRAPH, TENSORS, GRAPHS, SPARSE_TENSOR, SPARSE_TENSORS = 5, 6, 10, 11, 22, 23


class Tensor:
    """A constant tensor."""

    NAME, EXTERNAL_DATA, DATA_LOCATION = 8, 13, 14


NAME: Final = 1
"""Of an input, an output, or what is known of a value in between."""
KEY, VALUE = 1, 2
"""Of an entry of the metadata or of external data; of an operator set, its domain and version."""

_INSIDE: Final[Mapping[str, tuple[tuple[int, str], ...]]] = {
    "model": ((Model.GRAPH, "graph"), (Model.FUNCTION, "function"), (Model.TRAINING, "training")),
    "training": ((1, "graph"), (2, "graph")),
    "function": ((7, "node"), (11, "attribute")),
    "graph": (
        (Graph.INITIALIZER, "tensor"),
        (Graph.SPARSE_INITIALIZER, "sparse"),
        (Graph.NODE, "node"),
    ),
    "node": ((Node.ATTRIBUTE, "attribute"),),
    "attribute": (
        (Attribute.TENSOR, "tensor"),
        (Attribute.TENSORS, "tensor"),
        (Attribute.SPARSE_TENSOR, "sparse"),
        (Attribute.SPARSE_TENSORS, "sparse"),
        (Attribute.GRAPH, "graph"),
        (Attribute.GRAPHS, "graph"),
    ),
    "sparse": ((1, "tensor"), (2, "tensor")),
    "tensor": (),
}
"""Which fields of a message lead to tensors, and to which kind of message."""


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
        graphs = model.messages(Model.GRAPH)
        if len(graphs) != 1:
            raise ExplainerFileError(f"not an ONNX file: it holds {len(graphs)} graphs, expected 1")
        for tensor in _tensors(model, "model", 0):
            _check_inside(tensor)
        return _facts(model, graphs[0])
    except (MalformedError, UnicodeDecodeError) as error:
        raise ExplainerFileError(f"not a valid ONNX file: {error}") from error


def _tensors(message: Message, kind: str, depth: int) -> Iterator[Message]:
    """Yield every tensor in a message, at any depth."""
    if depth > MAX_DEPTH:
        raise ExplainerFileError(f"graphs nested more than {MAX_DEPTH} deep")
    if kind == "tensor":
        yield message
    for field, inner in _INSIDE[kind]:
        for one in message.messages(field):
            yield from _tensors(one, inner, depth + (kind == "attribute" and inner == "graph"))


def _check_inside(tensor: Message) -> None:
    if tensor.number(Tensor.DATA_LOCATION) or tensor.has(Tensor.EXTERNAL_DATA):
        entries = {
            entry.text(KEY): entry.text(VALUE) for entry in tensor.messages(Tensor.EXTERNAL_DATA)
        }
        raise UnsafeFileError(
            f"tensor {tensor.text(Tensor.NAME)!r} keeps its content outside the file, at "
            f"{entries.get('location', '?')!r}; an explainer must be one file: export it again"
        )


def _facts(model: Message, graph: Message) -> OnnxFacts:
    sets = {one.text(KEY): one.number(VALUE) or 0 for one in model.messages(Model.OPERATOR_SET)}
    opset = sets.get("", sets.get("ai.onnx"))
    if opset is None:
        raise ExplainerFileError("not an ONNX file: it names no operator set")
    metadata: dict[str, str] = {}
    for entry in model.messages(Model.METADATA):
        if entry.text(KEY) in metadata:
            raise ExplainerFileError(f"metadata key {entry.text(KEY)!r} stands there twice")
        metadata[entry.text(KEY)] = entry.text(VALUE)
    weights = {tensor.text(Tensor.NAME) for tensor in graph.messages(Graph.INITIALIZER)}
    inputs = {one.text(NAME): _tensor_type(one) for one in graph.messages(Graph.INPUT)}
    return OnnxFacts(
        opset=opset,
        metadata=metadata,
        inputs={name: kind for name, kind in inputs.items() if name not in weights},
        outputs={one.text(NAME): _tensor_type(one) for one in graph.messages(Graph.OUTPUT)},
        node_count=len(graph.messages(Graph.NODE)),
    )


def _tensor_type(value: Message) -> TensorType:
    """Return the type of an input or output: type > tensor > element type and shape > sizes."""
    for kind in value.messages(2):
        for tensor in kind.messages(1):
            dimensions = [d for shape in tensor.messages(2) for d in shape.messages(1)]
            sizes = tuple(d.number(1) if d.has(1) else d.text(2) or None for d in dimensions)
            return TensorType(DTYPES.get(tensor.number(1) or 0, "unknown"), sizes)
    return TensorType("unknown", ())
