"""Lower precision, written into the graph: which operators compute in float16 or bfloat16.

Engines that take the types of a graph literally (TensorRT 11, and 10 if asked) compute in the
precision that the file says. So the types are changed here, operator by operator, with a Cast
wherever two precisions meet. Inputs and outputs stay float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common as passes
from onnxscript import version_converter

from klieg.errors import ExportError, OptionError

PRECISIONS: Final[Mapping[str, ir.DataType]] = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}

BFLOAT16_OPSET: Final = 22
"""The first in which convolutions and pools take bfloat16; all else stays at 18."""

HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
"""Products: nearly all of the time and nearly all of the weights."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVES: Final = _names(
    """
    DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape Shape Size Slice
    SpaceToDepth Split Squeeze Tile Transpose Unsqueeze
    """
)
"""Operators that copy numbers of their first operand, or read its size: no cast is needed.

Not the same as what a whole weight or a score may pass unharmed (`weight_graph`, `score`), which
may be cast, but not cut or gathered."""


def _because(reason: str, operators: str) -> dict[str, str]:
    return dict.fromkeys(operators.split(), reason)


FLOAT32: Final[Mapping[str, str]] = {
    **_because(
        "sums over whole images pass 65504, and small terms are lost in large sums",
        """
        CumSum GlobalAveragePool GlobalLpPool LpPool ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare
        """,
    ),
    **_because(
        "a variance passes 65504, the epsilon beside it is below float16's smallest numbers",
        """
        BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization
        LpNormalization MeanVarianceNormalization Pow Reciprocal Sqrt
        """,
    ),
    **_because("a denominator may be subnormal or 0 in float16", "Div"),
    **_because(
        "exponentials and probabilities span more than float16's range",
        "Exp Log LogSoftmax Softmax Softplus",
    ),
    **_because("1 + erf(x) cancels", "Erf"),
    **_because("TensorRT has no bfloat16 form of it", "HardSwish"),
    **_because("places of pixels need more than 11 bits", "GridSample Resize"),
    **_because("the values read are compared or counted", "ArgMax ArgMin Cast TopK"),
}
"""Operators that stay in float32, and why. Besides: a tensor times itself (a variance), whatever
depends on the target (see `to_mixed_precision`), whatever does not depend on the image, and
operators whose constants the lower precision cannot hold (see `holds`)."""


def to_mixed_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Return a copy of an explainer whose heavy operators compute in a lower precision.

    Products (`HEAVY`) take the lower precision, and what follows them keeps it until an operator of
    the table `FLOAT32`. The backward passes, which is everything that depends on the content of
    `target`, stay in float32: behind a mean over an image gradients are about 1e-5, where float16
    has two digits left. They read the same weights, which stand in the file once, in the lower
    precision.

    Args:
        model: An instrumented classifier, float32 or float16 inside.
        precision: A key of `PRECISIONS`.

    Returns:
        Inputs and outputs have the types of before. See `BFLOAT16_OPSET`.

    Raises:
        OptionError: there is no such precision, or the model is quantised.
        ExportError: the model has sub-graphs.
    """
    low = checked_precision(precision)
    if low == ir.DataType.FLOAT:
        return model
    typed = ir.from_proto(model)
    if low == ir.DataType.BFLOAT16:
        version_converter.convert_version(typed, BFLOAT16_OPSET)
    passes.ShapeInferencePass(check_type=True, strict_mode=True, data_prop=False)(typed)
    _check_convertible(typed.graph, precision)
    _Conversion(typed.graph, low).run()
    passes.RemoveUnusedNodesPass()(typed)
    for node in typed.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None  # engines infer them
    return ir.to_proto(typed)


def checked_precision(precision: str) -> ir.DataType:
    """Return the element type of a precision; OptionError if there is none of that name."""
    if precision not in PRECISIONS:
        raise OptionError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def holds(array: NDArray[Any], low: ir.DataType, *, beside: float = 0) -> bool:
    """Return whether a precision holds an array as well as its number of bits lets expect.

    False if a finite number becomes infinite, or if so many are too small that the array as a whole
    is off by more than rounding to its bits explains. Single numbers that get lost beside larger
    ones do no harm: trained convolutions have dead channels of 1e-7.

    Args:
        array: Any constant.
        low: The element type.
        beside: Euclidean norm of what the array is added to, beside which it may get lost.
    """
    with np.errstate(over="ignore"):
        rounded = array.astype(low.numpy()).astype(array.dtype)
    finite = np.isfinite(rounded)
    if not finite.all():
        if not np.array_equal(finite, np.isfinite(array)):
            return False
        array, rounded = array[finite], rounded[finite]
    unit = float(np.abs(array).max(initial=0)) or 1.0  # squares of small numbers would be 0
    lost = float(np.linalg.norm((rounded - array) / unit))
    return lost <= ROUNDING[low] * max(float(np.linalg.norm(array / unit)), beside / unit)


ROUNDING: Final = {ir.DataType.FLOAT16: 2.0**-11, ir.DataType.BFLOAT16: 2.0**-8}
"""Largest relative error of rounding one number to the nearest."""

_FLOATS: Final = frozenset(PRECISIONS.values())
_QUANTISED: Final = frozenset({"DequantizeLinear", "QuantizeLinear"})


def _check_convertible(graph: ir.Graph, precision: str) -> None:
    for node in graph:
        if node.op_type in _QUANTISED:
            raise OptionError(
                f"the model is quantised (node {node.name!r} is {node.op_type}), so its precision "
                f"is in it already: leave out precision={precision!r} (--precision), or export "
                "the model unquantised"
            )
        if any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for a in node.attributes.values()
        ):
            raise ExportError(
                f"node {node.name!r} ({node.op_type}) has a graph inside, whose precision cannot "
                "be changed: export the model with precision='float32'"
            )


def forward_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that depend on the content of the image, backward passes included."""
    return _carrying(graph, [value for value in graph.inputs if value.name != "target"])


def backward_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that depend on the target class."""
    return _carrying(graph, [value for value in graph.inputs if value.name == "target"])


class _Conversion:
    """Conversion of one graph, node by node in order of computation."""

    def __init__(self, graph: ir.Graph, low: ir.DataType) -> None:
        self._graph, self._low = graph, low
        self._forward, self._backward = forward_nodes(graph), backward_nodes(graph)
        held: dict[ir.Value, bool] = {}
        for node in graph:
            for weight in _weights(node) if node.op_type in HEAVY else ():
                if weight not in held:
                    held[weight] = _held(weight, node, low)
        self._weights = {weight for weight, fits in held.items() if fits}
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        """Choose a precision for every node, and put casts where two meet."""
        for weight in self._weights:
            _store(weight, self._low)
        declared = [value.dtype for value in self._graph.outputs]
        for node in list(self._graph):
            operands = [v for v in node.inputs if v is not None and v.dtype in _FLOATS]
            if not operands:
                continue
            if node.op_type == "Cast" and node.outputs[0].dtype in _FLOATS:
                node.op_type = "Identity"  # precisions are chosen here
                node.attributes.clear()
            dtype = self._dtype(node, operands)
            for index, value in enumerate(node.inputs):
                if value in operands:
                    node.replace_input_with(index, self._in(dtype, value, node))
            for value in node.outputs:
                if value.dtype in _FLOATS:
                    value.dtype = dtype
        for index, output_dtype in enumerate(declared):
            self._cast_output(index, output_dtype)

    def _dtype(self, node: ir.Node, operands: list[ir.Value]) -> ir.DataType:
        """Return in which precision a node computes."""
        if node.op_type in MOVES:
            return operands[0].dtype or self._low
        computed = [value for value in operands if not value.is_initializer()]
        takes_low = (
            node.op_type not in FLOAT32
            and node in self._forward
            and node not in self._backward
            and not (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])
            and (node.op_type in HEAVY or any(v.dtype == self._low for v in computed))
            and all(
                v in self._weights or holds(_content(v), self._low)
                for v in operands
                if v.is_initializer()
            )
        )
        return self._low if takes_low else ir.DataType.FLOAT

    def _in(self, dtype: ir.DataType, value: ir.Value, reader: ir.Node) -> ir.Value:
        """Return a tensor in a precision: itself, a second constant, or a cast before `reader`."""
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self._made:
            name = f"{value.name}/{dtype.name.lower()}"
            if value.is_initializer() and value not in self._weights:
                made = ir.Value(name=name, const_value=value.const_value)
                _store(made, dtype)
                self._graph.register_initializer(made)
            else:
                node = _cast(value, dtype, name)
                self._graph.insert_before(reader, node)
                made = node.outputs[0]
            self._made[value, dtype] = made
        return self._made[value, dtype]

    def _cast_output(self, index: int, dtype: ir.DataType | None) -> None:
        value = self._graph.outputs[index]
        if dtype is None or value.dtype == dtype:
            return
        name = str(value.name)
        value.name = f"{name}/{self._low.name.lower()}"
        node = _cast(value, dtype, name)
        node.outputs[0].shape = value.shape
        self._graph.append(node)
        self._graph.outputs[index] = node.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}/cast")
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
    return node


def _store(value: ir.Value, dtype: ir.DataType) -> None:
    """Give an initialiser another precision."""
    value.const_value = ir.tensor(_content(value).astype(dtype.numpy()), name=value.name)
    value.type = ir.TensorType(dtype)


def _content(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _held(weight: ir.Value, node: ir.Node, low: ir.DataType) -> bool:
    """Return whether a precision holds a constant of a product, a bias beside the weights."""
    is_bias = len(node.inputs) > 2 and node.inputs[2] is weight
    others = [_content(other) for other in _weights(node) if is_bias]
    beside = max((float(np.linalg.norm(other)) for other in others), default=0.0)
    return holds(_content(weight), low, beside=beside)


def _weights(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the constants that a product reads, directly or through `MOVES`."""
    for value in node.inputs:
        while value is not None and (producer := value.producer()) is not None:
            value = producer.inputs[0] if producer.op_type in MOVES else None
        if value is not None and value.is_initializer() and value.dtype in _FLOATS:
            yield value


def _carrying(graph: ir.Graph, starts: Collection[ir.Value]) -> set[ir.Node]:
    """Return the nodes that depend on the content of some inputs, not on their size alone."""
    values, nodes = set(starts), set()
    for node in graph:
        if node.op_type not in ("Shape", "Size") and not values.isdisjoint(node.inputs):
            values.update(node.outputs)
            nodes.add(node)
    return nodes
