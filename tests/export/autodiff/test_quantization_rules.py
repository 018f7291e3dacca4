"""Quantised values pass gradients straight through inside their range."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from helpers.running import outputs
from klieg.errors import GradientError, UnsupportedOperatorError
from klieg.export.autodiff import add_gradient

INT8 = np.array(-10, np.int8)


def quantised(
    *, scale: np.ndarray, zero: np.ndarray | None, axis: int = 1, other_scale: float = 1
) -> onnx.ModelProto:
    """Return x [n, 3] -> quantise -> dequantise -> times a matrix -> logits [n, 2]."""
    arrays = {"s": scale, "s2": scale * np.float32(other_scale)}
    zeros = []
    if zero is not None:
        arrays["z"], zeros = zero, ["z"]
    arrays["w"] = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    nodes = [
        oh.make_node("QuantizeLinear", ["x", "s", *zeros], ["q"], axis=axis),
        oh.make_node("DequantizeLinear", ["q", "s2", *zeros], ["d"], axis=axis, name="back"),
        oh.make_node("MatMul", ["d", "w"], ["logits"]),
    ]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)


def gradient(model: onnx.ModelProto, x: Any) -> np.ndarray:
    result = add_gradient(model, score="logits", wrt="x")
    feeds = {"x": np.array(x, np.float32), "target": np.zeros(len(x), np.int64)}
    return outputs(result, feeds)["gradient"]


def test_one_scale() -> None:
    model = quantised(scale=np.float32(0.1), zero=INT8)
    # The grid of (q + 10) * 0.1 with q in -128..127 reaches from -11.8 to 13.7.
    x = [[0, 13.7, -11.8], [5, 13.8, -11.9], [-3, 99, -99]]
    np.testing.assert_allclose(gradient(model, x), [[1, 3, 5], [1, 0, 0], [1, 0, 0]])


def test_without_a_zero_point_values_are_not_negative() -> None:
    model = quantised(scale=np.float32(1), zero=None)
    np.testing.assert_allclose(gradient(model, [[0, -1, 255], [1, 256, 5]]), [[1, 0, 5], [1, 0, 5]])


def test_one_scale_per_channel() -> None:
    scale, zero = np.array([1, 2, 0.5], np.float32), np.array([0, 0, 0], np.int8)
    model = quantised(scale=scale, zero=zero)
    np.testing.assert_allclose(
        gradient(model, [[200, 200, 200], [100, 100, 60]]), [[0, 3, 0], [1, 3, 5]]
    )


def test_scales_that_differ_are_refused() -> None:
    model = quantised(scale=np.float32(0.1), zero=INT8, other_scale=2)
    with pytest.raises(UnsupportedOperatorError, match=r"back.*not that of its QuantizeLinear"):
        gradient(model, [[0, 0, 0]])


def test_integers_from_elsewhere_are_refused() -> None:
    model = quantised(scale=np.float32(0.1), zero=INT8)
    model.graph.node[0].CopyFrom(oh.make_node("Cast", ["x"], ["q"], to=onnx.TensorProto.INT8))
    with pytest.raises(GradientError, match="does not lead"):
        gradient(model, [[0, 0, 0]])
