"""How the forward pass of an explainer file reads its weights. Needs onnx alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx

from klieg.errors import ExportError
from klieg.export.derived_weights import WRITTEN

KERNELS: Final = frozenset({"Conv", "ConvTranspose"})
MATRICES: Final = frozenset({"Einsum", "Gemm", "MatMul"})
WEIGHTED: Final = KERNELS | MATRICES

_EITHER: Final = (0, 1)
_OPERANDS: Final = {
    **dict.fromkeys(KERNELS, (1, 2)),
    "Add": _EITHER,
    "BatchNormalization": (1, 2),  # the running statistics, 3 and 4, are no weights
    "Div": _EITHER,
    "Einsum": _EITHER,
    "Gemm": (0, 1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": _EITHER,
    "Mul": _EITHER,
    "PRelu": (1,),
    "Sub": _EITHER,
}
"""Which operands may be weights."""

_MOVES: Final = frozenset(
    {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that a weight may pass on its way to the operator that uses it: it stays whole."""

_FLOATS: Final = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.DOUBLE,
    }
)


@dataclass(frozen=True)
class WeightUse:
    """One operator reading one initialiser."""

    name: str
    """The initialiser."""
    shape: tuple[int, ...]
    node: onnx.NodeProto
    operand: int
    turned: bool
    """True for a matrix whose columns are multiplied with the activation, not its rows."""

    @property
    def group(self) -> int:
        """Number of groups of a convolution."""
        return int(attribute(self.node, "group", 1))


class WeightGraph:
    """The nodes between image and logits, in order of computation."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._data = _carrying(model.graph, "image")
        self._depth: dict[str, int] = {"logits": 0}
        nodes = []
        for node in reversed(model.graph.node):
            depths = [self._depth[name] for name in node.output if name in self._depth]
            if depths:
                for name in node.input:
                    self._depth[name] = max(self._depth.get(name, 0), max(depths) + 1)
                if not self._data.isdisjoint(node.output):
                    nodes.append(node)
        self.nodes: Final = nodes[::-1]
        self._position = {name: i for i, node in enumerate(self.nodes) for name in node.output}

    def depth(self, node: onnx.NodeProto) -> int:
        """Return the number of nodes on the longest path from a node to the logits."""
        return max(self._depth[name] for name in node.output if name in self._depth)

    def position(self, name: str) -> int:
        """Return the number of the node that computes a tensor."""
        return self._position[name]

    def data(self, node: onnx.NodeProto) -> list[str]:
        """Return the operands of a node that depend on the content of the image."""
        return [name for name in node.input if name in self._data]

    def uses(self, node: onnx.NodeProto) -> list[WeightUse]:
        """Return the weights that a node reads; scalars are no weights.

        Raises:
            ExportError: the weights of a convolution or a matrix product are not floating-point.
        """
        found = []
        for operand in _OPERANDS.get(node.op_type, ()):
            if operand >= len(node.input) or not node.input[operand]:
                continue
            name = node.input[operand]
            if name in self._data:
                continue
            root, turns = self._root(name)
            tensor = self._tensors.get(root)
            if tensor is None or tensor.data_type not in _FLOATS:
                if node.op_type in WEIGHTED:
                    raise ExportError(
                        f"the weights {name!r} of {node.op_type} are quantised or computed, "
                        "expected floating-point initialisers: export the model unquantised"
                    )
                continue
            if root.startswith(WRITTEN) or max(tensor.dims, default=1) == 1:
                continue
            turned = (turns + (operand == 0) + attribute(node, "transB", 0)) % 2 == 1
            found.append(WeightUse(root, tuple(tensor.dims), node, operand, turned))
        return found

    def _root(self, name: str) -> tuple[str, int]:
        """Return the initialiser behind a tensor, and how often it is transposed on the way."""
        turns = 0
        while (node := self._producers.get(name)) is not None and node.op_type in _MOVES:
            turns += node.op_type == "Transpose"
            name = node.input[0]
        return name, turns


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """Return a number among the attributes of a node."""
    for given in node.attribute:
        if given.name == name:
            value: float = onnx.helper.get_attribute_value(given)
            return value
    return default


def _carrying(graph: onnx.GraphProto, start: str) -> set[str]:
    """Return the tensors that depend on the content of `start`, not on its size alone."""
    found = {start}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and not found.isdisjoint(node.input):
            found.update(node.output)
    return found
