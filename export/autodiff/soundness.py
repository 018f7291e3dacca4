"""Checks of a model beyond onnx's own checker."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import onnx
import onnx.checker
import onnx.defs
import onnx.helper
import onnx_ir as ir

from klieg.errors import GradientError
from klieg.export.autodiff.emitter import graph_values, numpy_constant

_LARGEST_CONTENT: Final = 4096
"""Bytes of a constant that inference may look into; of larger ones the shape is enough."""

_PROGRAM: Final = (
    "import sys, onnx.shape_inference as s;"
    "s.infer_shapes(sys.stdin.buffer.read(), strict_mode=True, data_prop=True)"
)


def try_inference(model: onnx.ModelProto) -> None:
    """Check that shape inference, whether it succeeds or not, does not end its process.

    onnx 1.23 stops at an assertion where a Slice meets an axis of negative size, such as that
    behind a pool whose window is larger than the image. So models with a Slice are tried in another
    process first, which takes 0.1 s.

    Raises:
        GradientError: it does.
    """
    data = _without_weights(model).SerializeToString()
    if b"Slice" not in data:
        return
    trial = subprocess.run(
        [sys.executable, "-c", _PROGRAM], input=data, capture_output=True, check=False
    )
    if trial.returncode < 0:
        raise GradientError(
            "the model is malformed: ONNX's shape inference breaks off; perhaps a window is larger "
            "than the image, or a size is negative"
        )


def check_structure(model: onnx.ModelProto) -> None:
    """Run onnx's checker, which wants to know the rank of every output: here it may be unknown."""
    tensors = [value.type.tensor_type for value in (*model.graph.input, *model.graph.output)]
    unknown = [tensor for tensor in tensors if not tensor.HasField("shape")]
    for tensor in unknown:
        tensor.shape.SetInParent()
    onnx.checker.check_model(model)
    for tensor in unknown:
        tensor.ClearField("shape")


def check_content(graph: ir.Graph, opset: int) -> None:
    """Read every constant and every name, compare the types of operands.

    Raises:
        ValueError: a constant or a name cannot be read, or the operands of a node differ in type.
    """
    for value in graph_values(graph):
        numpy_constant(value)
    names = [graph.name, *(node.name for node in graph), *(v.name for v in graph_values(graph))]
    broken = [name for name in names if isinstance(name, bytes)]
    if broken:
        raise ValueError(f"the name {broken[0]!r} is not UTF-8 text")
    for node in graph:
        if not node.domain and onnx.defs.has(node.op_type, opset, ""):
            _check_types(node, onnx.defs.get_schema(node.op_type, opset, ""))


def _check_types(node: ir.Node, schema: onnx.defs.OpSchema) -> None:
    bound: dict[str, ir.DataType] = {}
    variables = {constraint.type_param_str for constraint in schema.type_constraints}
    for place, value in enumerate(node.inputs):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if value is None or value.dtype is None or formal.type_str not in variables:
            continue
        if formal.is_homogeneous and bound.setdefault(formal.type_str, value.dtype) != value.dtype:
            raise ValueError(
                f"{node.op_type} (node {node.name!r}) takes {value.name!r} as {value.dtype}, "
                f"but another operand is {bound[formal.type_str]}"
            )


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that has inputs of the same shape in place of large constants."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = "trial"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    named = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _LARGEST_CONTENT:
            graph.initializer.append(tensor)
        elif tensor.name not in named:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light
