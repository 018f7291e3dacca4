"""Classifiers as bare ONNX models, the way other tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import torch
from onnx import TensorProto, numpy_helper

from helpers.running import outputs
from klieg.export import export_classifier

SIZE = 32
RGB = {"mean": [0.4, 0.5, 0.45], "std": [0.2, 0.25, 0.3]}
GREY = {"mean": [0.5], "std": [0.25]}


def convolutional(*, channels: int = 3) -> onnx.ModelProto:
    """Return image [n, c, h, w] -> Conv -> Relu -> mean over space -> Gemm -> logits [n, 4]."""
    random = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) / 3

    weights = {
        "w1": weight(6, channels, 3, 3),
        "b1": weight(6),
        "w2": weight(6, 4),
        "b2": weight(4),
    }
    nodes = [
        oh.make_node("Conv", ["image", "w1", "b1"], ["c"], strides=[4, 4], pads=[1] * 4),
        oh.make_node("Relu", ["c"], ["r"]),
        oh.make_node("GlobalAveragePool", ["r"], ["p"]),
        oh.make_node("Flatten", ["p"], ["f"]),
        oh.make_node("Gemm", ["f", "w2", "b2"], ["logits"]),
    ]
    return model(nodes, {"image": ["n", channels, "h", "w"]}, {"logits": ["n", 4]}, weights)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    weights: dict[str, np.ndarray],
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [oh.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)


def explain(
    proto: onnx.ModelProto, folder: Path, images: np.ndarray, **options: Any
) -> dict[str, np.ndarray]:
    """Export, run images [B, C, H, W] in 0..255 for class 2, and return the outputs."""
    path = folder / "explainer.onnx"
    report = export_classifier(
        proto, path, input_size=SIZE, methods=["saliency"], **{**RGB, **options}
    )
    assert max(report.parity.values()) < 1e-3
    return outputs(path, {"image": images, "target": np.full(len(images), 2, dtype=np.int64)})


def same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, rtol: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(got[name], value, atol=rtol * scale, err_msg=name)


def channels_last() -> onnx.ModelProto:
    """Return the same classifier with channels last outside and at its last feature map."""
    proto = convolutional()
    nodes = list(proto.graph.node)
    nodes[0].input[0] = "first"
    front = oh.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2])
    turn = oh.make_node("Transpose", ["r"], ["last"], perm=[0, 2, 3, 1])
    mean = oh.make_node("ReduceMean", ["last", "axes"], ["f"], keepdims=0)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    return model(
        [front, *nodes[:2], turn, mean, nodes[4]],
        {"image": ["n", "h", "w", 3]},
        {"logits": ["n", 4]},
        {**weights, "axes": np.array([1, 2])},
    )


def with_metadata_inputs() -> onnx.ModelProto:
    """Return the classifier with an age [n, 1] added to its features, and a flag."""
    proto = convolutional()
    proto.graph.input.extend(
        [
            oh.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1]),
            oh.make_tensor_value_info("scale", TensorProto.INT64, []),
        ]
    )
    nodes = list(proto.graph.node)
    nodes[4].input[0] = "scaled"
    nodes[4:4] = [
        oh.make_node("Concat", ["f", "age"], ["joined"], axis=1),
        oh.make_node("Slice", ["joined", "zero", "six", "one"], ["cut"]),
        oh.make_node("Cast", ["scale"], ["factor"], to=1),
        oh.make_node("Mul", ["cut", "factor"], ["scaled"]),
    ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    for name, number in (("zero", 0), ("six", 6), ("one", 1)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    return proto


def two_views() -> onnx.ModelProto:
    """Return a classifier of two images with two heads."""
    proto = convolutional()
    proto.graph.input.append(
        oh.make_tensor_value_info("depth", TensorProto.FLOAT, ["n", 3, "h", "w"])
    )
    proto.graph.node[0].input[0] = "both"
    nodes = [
        oh.make_node("Add", ["image", "depth"], ["both"]),
        *proto.graph.node,
        oh.make_node("Neg", ["logits"], ["opposite"]),
    ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.output.append(oh.make_tensor_value_info("opposite", TensorProto.FLOAT, ["n", 4]))
    return proto


def traced(net: torch.nn.Module, *, tail: str | None = None, opset: int = 18) -> onnx.ModelProto:
    """Return a bare ONNX classifier, perhaps with a final operator."""
    axes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 3, 32, 40),),
        dynamo=True,
        opset_version=opset,
        verbose=False,
        input_names=["pixels"],
        output_names=["scores"],
        dynamic_shapes=(axes,),
    )
    model = program.model_proto
    if tail:
        model.graph.node.append(oh.make_node(tail, ["scores"], ["probabilities"], name="tail"))
        model.graph.output[0].name = "probabilities"
    return model
