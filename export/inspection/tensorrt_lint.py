"""Operators of a graph that TensorRT refuses, found without TensorRT.

A denylist: operators and uses of operators that its ONNX parser or builder does not take. Measured
with the parser of TensorRT-RTX 1.7.1 and read in the operator table of TensorRT 10.1; where the two
differ, the stricter counts. `tests/export/inspection/test_tensorrt_lint.py` holds it against the
parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray

from klieg.errors import ExportError


@dataclass(frozen=True)
class Finding:
    """One node that TensorRT refuses or changes."""

    node: str
    """Its name, or the names of its outputs if it has none."""
    operator: str
    reason: str


def lint(model: onnx.ModelProto) -> list[Finding]:
    """Return the nodes of a model on TensorRT's denylist, in order, each with the first reason.

    Bodies of local functions and sub-graphs are looked into. Nothing is executed.

    Raises:
        ExportError: the model is malformed.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ExportError(f"the model is malformed: {error}") from error
    functions = frozenset((function.domain, function.name) for function in model.functions)
    findings = _in_graph(inferred.graph, _Scope({}, {}, frozenset(), functions))
    for function in model.functions:
        scope = _Scope({}, {}, frozenset(function.output), functions)
        findings += _in_nodes(function.node, scope)
    return findings


@dataclass(frozen=True)
class _Scope:
    """Constants and element types of the tensors in scope of a node."""

    constants: Mapping[str, NDArray[Any] | None]
    """Weights and constants, those of one number with their content."""
    types: Mapping[str, int]
    """Element types as far as they are known."""
    outputs: frozenset[str]
    """The outputs of the graph."""
    functions: frozenset[tuple[str, str]]
    """Domain and name of the model's own functions."""


def _in_graph(graph: onnx.GraphProto, outer: _Scope) -> list[Finding]:
    typed = [*graph.input, *graph.value_info, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in typed}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    # Only single numbers are asked for, so large weights are not read.
    contents = {
        name: onnx.numpy_helper.to_array(tensor) if np.prod(tensor.dims) <= 1 else None
        for name, tensor in weights.items()
    }
    scope = replace(
        outer,
        constants={**outer.constants, **contents},
        types={**outer.types, **types, **{n: t.data_type for n, t in weights.items()}},
        outputs=frozenset(value.name for value in graph.output),
    )
    return _in_nodes(graph.node, scope)


def _in_nodes(nodes: Any, scope: _Scope) -> list[Finding]:
    findings: list[Finding] = []
    constants = dict(scope.constants)
    scope = replace(scope, constants=constants)
    for node in nodes:
        use = _Use(node, scope)
        reason = next(filter(None, _reasons(use)), None)
        if reason is not None:
            domain = f"{node.domain}::" if node.domain else ""
            name = node.name or f"-> {', '.join(node.output)}"
            findings.append(Finding(name, domain + node.op_type, reason))
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                findings += _in_graph(graph, scope)
        if node.op_type == "Constant":
            constants[node.output[0]] = use.constant_content()
    return findings


@dataclass(frozen=True)
class _Use:
    """One use of an operator."""

    node: onnx.NodeProto
    scope: _Scope

    def attribute(self, name: str, default: Any) -> Any:
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def computed(self, index: int) -> bool:
        """Whether an input is there and known at run time only."""
        name = self.node.input[index] if index < len(self.node.input) else ""
        return bool(name) and name not in self.scope.constants

    def number(self, index: int) -> float | None:
        """Return the content of an input that is a constant of one number, else None."""
        name = self.node.input[index] if index < len(self.node.input) else ""
        content = self.scope.constants.get(name)
        return None if content is None else float(content.ravel()[0])

    def constant_content(self) -> NDArray[Any] | None:
        for attribute in self.node.attribute:
            if attribute.HasField("t") and np.prod(attribute.t.dims) == 1:
                return onnx.numpy_helper.to_array(attribute.t)
            if attribute.name in ("value_int", "value_float"):
                return np.array(onnx.helper.get_attribute_value(attribute))
        return None

    def touches(self, dtype: int, names: Any) -> bool:
        return any(self.scope.types.get(name) == dtype for name in names)


def _reasons(use: _Use) -> Iterator[str | None]:
    node = use.node
    if node.domain not in ("", "ai.onnx"):
        if (node.domain, node.op_type) not in use.scope.functions:
            yield "operators of other domains need a TensorRT plugin"
        return
    if node.op_type in UNSUPPORTED:
        yield "TensorRT has no such operator"
    if node.op_type in RULES:
        yield RULES[node.op_type](use)
    if use.touches(onnx.TensorProto.DOUBLE, (*node.input, *node.output)):
        yield "TensorRT computes float64 in float32"
    yield _uint8_inside(use)


def _uint8_inside(use: _Use) -> str | None:
    """Look for uint8 elsewhere than at the network's inputs and outputs."""
    uint8 = onnx.TensorProto.UINT8
    if use.node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return None
    inner = [name for name in use.node.output if name not in use.scope.outputs]
    operands = () if use.node.op_type == "Cast" else use.node.input
    if use.touches(uint8, (*operands, *inner)):
        return "uint8 is for the network's inputs and outputs only: cast it at once"
    return None


def _pool(use: _Use) -> str | None:
    if len([name for name in use.node.output if name]) > 1:
        return "the output Indices is not supported"
    if any(dilation != 1 for dilation in use.attribute("dilations", ())):
        return "dilations other than 1 are not supported"
    return None


def _scatter(use: _Use) -> str | None:
    reduction = use.attribute("reduction", "none")
    return None if reduction == "none" else f"reduction {reduction!r} is not supported"


def _resize(use: _Use) -> str | None:
    coordinates = use.attribute("coordinate_transformation_mode", "half_pixel")
    if coordinates in ("half_pixel_symmetric", "tf_crop_and_resize"):
        return f"coordinate_transformation_mode {coordinates!r} is not supported"
    if use.attribute("antialias", 0):
        return "antialias is not supported"
    policy = use.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        return f"keep_aspect_ratio_policy {policy!r} is not supported"
    if use.attribute("mode", "nearest") == "cubic":
        return "TensorRT 10.1 has the modes nearest and linear only"
    return None


def _top_k(use: _Use) -> str | None:
    k = use.number(1)
    if k is not None and k > TOP_K:
        return f"k is {k:.0f}, at most {TOP_K} are supported"
    return None if use.attribute("sorted", 1) else "TensorRT 10.1 returns sorted values only"


def _if(reason: str, condition: Callable[[_Use], Any]) -> Callable[[_Use], str | None]:
    return lambda use: reason if condition(use) else None


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TOP_K: Final = 3840

UNSUPPORTED: Final = _names(
    """
    AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor
    CenterCropPad Col2Im Compress ConcatFromSequence ConvInteger CumProd DFT DeformConv Det
    DynamicQuantizeLinear ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix
    Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement
    QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty
    SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss
    SplitToSequence StringConcat StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique
    """
)
"""Standard operators without an entry in the parser's table."""

REDUCTIONS: Final = _names(
    """
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare
    """
)

_asymmetric: Final = _if("the zero point must be 0", lambda use: use.number(2))

RULES: Final[Mapping[str, Callable[[_Use], str | None]]] = {
    "AveragePool": _pool,
    "BatchNormalization": _if(
        "training mode is not supported", lambda use: use.attribute("training_mode", 0)
    ),
    "DequantizeLinear": _asymmetric,
    "Dropout": _if("training mode is not supported", lambda use: use.number(2)),
    "MaxPool": _pool,
    "NonZero": _if(
        "the shape of its result depends on the data; needs TensorRT's plugin library",
        lambda _use: True,
    ),
    "OneHot": _if("the depth must be known at build time", lambda use: use.computed(1)),
    "QuantizeLinear": _asymmetric,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "TopK": _top_k,
    **dict.fromkeys(
        REDUCTIONS, _if("the axes must be known at build time", lambda use: use.computed(1))
    ),
}
