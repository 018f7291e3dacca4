"""Shape inference tried in another process first, because it can end the process it runs in.

onnx 1.23 stops at an assertion where a Slice meets an axis of negative size, such as that behind a
pool whose window is larger than the image.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import onnx
import onnx.helper

from klieg.errors import GradientError

_LARGEST_CONTENT: Final = 4096
"""Bytes of a constant that inference may look into; of larger ones the shape is enough."""

_PROGRAM: Final = (
    "import sys, onnx.shape_inference as s;"
    "s.infer_shapes(sys.stdin.buffer.read(), strict_mode=True, data_prop=True)"
)


def try_inference(model: onnx.ModelProto) -> None:
    """Return if shape inference, whether it succeeds or not, does not end its process.

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
