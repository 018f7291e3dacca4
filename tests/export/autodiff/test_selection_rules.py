"""Rules that take or repeat parts of a tensor, against finite differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import pytest

from helpers.gradient_check import check, numbers
from klieg.export.autodiff import add_gradient
from klieg.export.parity.float64 import evaluator


@pytest.mark.parametrize("wanted", [["a"], ["b"], ["a", "c"]])
def test_split(wanted: list[str]) -> None:
    """Parts that lead nowhere get zeros: logits = sum over the wanted parts."""
    nodes = [
        oh.make_node("Split", ["x", "sizes"], ["a", "b", "c"], axis=1),
        *[oh.make_node("ReduceSum", [name, "one"], [name + "s"], keepdims=1) for name in wanted],
        oh.make_node("Sum", [name + "s" for name in wanted], ["logits"]),
    ]
    graph = oh.make_graph(
        nodes, "g",
        [oh.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["n", 6])],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.DOUBLE, ["n", 1])],
        [
            onnx.numpy_helper.from_array(np.array([1, 2, 3]), "sizes"),
            onnx.numpy_helper.from_array(np.array([1]), "one"),
        ],
    )  # fmt: skip
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)])
    result = add_gradient(model, score="logits", wrt="x")
    outputs: Any = evaluator(result).run(
        ["gradient"], {"x": numbers(2, 6), "target": np.array([0, 0])}
    )
    parts = {"a": [0], "b": [1, 2], "c": [3, 4, 5]}
    expected = np.zeros((2, 6))
    expected[:, [i for name in wanted for i in parts[name]]] = 1
    np.testing.assert_array_equal(outputs[0], expected)
    assert ir.from_proto(result).graph.outputs[-1].name == "gradient"


def test_tile() -> None:
    check("Tile", {"x": numbers(2, 3, 1)}, "x", constants={"r": np.array([1, 2, 1])})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    check("DepthToSpace", {"x": numbers(2, 8, 2, 3)}, "x", blocksize=2, mode=mode)


def test_space_to_depth() -> None:
    check("SpaceToDepth", {"x": numbers(1, 2, 4, 6)}, "x", blocksize=2)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
@pytest.mark.parametrize("extra", [[0, 0], [1, 1]])
def test_conv_transpose(group: int, strides: list[int], extra: list[int]) -> None:
    if max(extra) >= min(strides):
        extra = [0, 0]
    check(
        "ConvTranspose", {"x": numbers(2, 4, 3, 2)}, "x",
        constants={"w": numbers(4, 3, 3, 2, seed=1)}, group=group, strides=strides,
        pads=[1, 0, 0, 1], output_padding=extra,
    )  # fmt: skip
