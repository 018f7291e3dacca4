"""Writes operators to a graph: `op.Mul(a, 2.0)` appends a node and returns its output.

An expression that was already written is not written again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from klieg.errors import GradientError
from klieg.export.derived_weights import WRITTEN, DerivedWeight

Size = NDArray[np.int64] | ir.Value
"""[n] int64: an array if all n sizes are fixed, else a value of the graph."""

Operand = ir.Value | NDArray[Any] | float | int | Sequence[int] | None

_BOOLEAN: Final = frozenset(
    {"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"}
)
_INTEGER: Final = frozenset({"ArgMax", "Shape"})


class Emitter:
    """Appends nodes to one graph.

    Operands are values of the graph, arrays (which become initializers), Python floats (scalars of
    the type of the first value among the operands), integers and lists of integers (int64), or None
    for an input that is left out.

    Methods in lower case compute with sizes of axes, here where these are fixed, else in the graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._written: dict[object, ir.Value] = {}
        self._names = {value.name for value in graph_values(graph)} | {node.name for node in graph}
        self.derived_weights: Final[dict[str, DerivedWeight]] = {}
        """The constants that `derived` wrote, by name."""

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)

        def emit(*operands: Operand, **attributes: Any) -> ir.Value:
            return self._emit(op_type, operands, attributes)

        return emit

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """Return an initializer with this content."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._written:
            self._written[key] = self._initializer(array)
        return self._written[key]

    def derived(
        self, rule: str, *sources: ir.Value, epsilon: float = 0.0, shape: Sequence[int] = ()
    ) -> ir.Value:
        """Return a constant that follows from initialisers, and keep note of how.

        Args:
            rule: A key of `derived_weights.RULES`.
            sources: Initialisers, the weight first.
            epsilon: What the rule adds to a variance.
            shape: Shape of the constant, that of the weight if left out.
        """
        derived = DerivedWeight(rule, tuple(str(source.name) for source in sources), epsilon)
        key = (derived, tuple(shape))
        if key not in self._written:
            contents = [cast(NDArray[Any], numpy_constant(source)) for source in sources]
            array = derived.computed(contents)
            value = self._initializer(array.reshape(shape) if shape else array)
            self._written[key] = value
            self.derived_weights[str(value.name)] = derived
        return self._written[key]

    def shape(self, value: ir.Value, start: int = 0) -> Size:
        """Return the sizes of the axes from `start` on: an array if all are fixed, else a value."""
        sizes = dims(value)[start:]
        if None in sizes:
            return self.Shape(value, start=start) if start else self.Shape(value)
        return np.array(sizes, dtype=np.int64)

    def size(self, value: ir.Value, axis: int) -> Size:
        """Return the size of one axis [1]: an array if it is fixed, else a value."""
        fixed = dims(value)[axis]
        if fixed is None:
            axis %= len(dims(value))
            return self.Shape(value, start=axis, end=axis + 1)
        return np.array([fixed], dtype=np.int64)

    def add(self, a: Size, b: Size) -> Size:
        """Return the sizes a + b."""
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return a + b
        if isinstance(b, np.ndarray) and not b.any():
            return a
        if isinstance(a, np.ndarray) and not a.any():
            return b
        return self.Add(a, b)

    def subtract(self, a: Size, b: Size) -> Size:
        """Return the sizes a - b."""
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return a - b
        return a if isinstance(b, np.ndarray) and not b.any() else self.Sub(a, b)

    def multiply(self, a: Size, factor: int) -> Size:
        """Return the sizes a * factor."""
        if isinstance(a, np.ndarray):
            return a * factor
        return a if factor == 1 else self.Mul(a, [factor])

    def join(self, parts: Sequence[Size]) -> Size:
        """Return all sizes in one row."""
        if all(isinstance(part, np.ndarray) for part in parts):
            return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
        return self.Concat(*parts, axis=0)

    def reshape(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Give `value` the shape of `like`, which has the same number of elements."""
        sizes = dims(like)
        if sizes.count(None) <= 1:
            return self.Reshape(value, [-1 if size is None else size for size in sizes])
        return self.Reshape(value, self.Shape(like))

    def _initializer(self, array: NDArray[Any]) -> ir.Value:
        value = ir.val(self._unused("constant"), const_value=ir.tensor(array))
        self._graph.register_initializer(value)
        return value

    def _emit(
        self, op_type: str, operands: Sequence[Operand], attributes: dict[str, Any]
    ) -> ir.Value:
        values = (o for o in operands if isinstance(o, ir.Value) and o.dtype != ir.DataType.BOOL)
        dtype = next((value.dtype for value in values), None)
        inputs = [self._as_value(operand, dtype) for operand in operands]
        while inputs and inputs[-1] is None:
            inputs.pop()
        key = (op_type, tuple(map(id, inputs)), repr(sorted(attributes.items())))
        if key not in self._written:
            node = ir.node(op_type, inputs, attributes, name=self._unused(f"node_{op_type}"))
            output = node.outputs[0]
            output.name = self._unused(op_type)
            output.type = _result_type(op_type, inputs, attributes)
            self._graph.append(node)
            self._written[key] = output
        return self._written[key]

    def _as_value(self, operand: Operand, dtype: ir.DataType | None) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, np.ndarray):
            return self.constant(operand)
        if isinstance(operand, float):
            return self.constant(np.array(operand, dtype=_numpy_type(dtype)))
        return self.constant(np.array(operand, dtype=np.int64))

    def _unused(self, stem: str) -> str:
        number = len(self._names)
        while (name := f"{WRITTEN}{stem}_{number}") in self._names:
            number += 1
        self._names.add(name)
        return name


def dims(value: ir.Value) -> list[int | None]:
    """Return the size of every axis, None where it is known at run time only.

    Raises:
        GradientError: not even the number of axes is known.
    """
    if value.shape is None:
        raise GradientError(
            f"the rank of tensor {value.name!r} is unknown after shape inference; "
            "give the graph's inputs their ranks, or export the model with shapes"
        )
    return [size if isinstance(size, int) else None for size in value.shape]


def numpy_constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the content of an initializer, None for anything computed or left out."""
    if value is None or value.const_value is None:
        return None
    return value.const_value.numpy()


def graph_values(graph: ir.Graph) -> list[ir.Value]:
    """Return every named value of the graph: inputs, initializers, node outputs."""
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        values.extend(node.outputs)
    return values


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
    """Return whether a value depends on the content of an input, not on its size alone."""
    return shape_nodes(value) is None


def _result_type(
    op_type: str, inputs: Sequence[ir.Value | None], attributes: dict[str, Any]
) -> ir.TensorType | None:
    if op_type in _BOOLEAN:
        return ir.TensorType(ir.DataType.BOOL)
    if op_type in _INTEGER:
        return ir.TensorType(ir.DataType.INT64)
    if op_type == "Cast":
        return ir.TensorType(ir.DataType(attributes["to"]))
    source = {"Where": 1, "OneHot": 2}.get(op_type, 0)
    value = inputs[source]
    return ir.TensorType(value.dtype) if value is not None and value.dtype is not None else None


def _numpy_type(dtype: ir.DataType | None) -> np.dtype[Any]:
    return (dtype or ir.DataType.FLOAT).numpy()
