"""Operators without a rule are written out by others, those of newer opsets too."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
import torch
from torch.nn import functional

from helpers.directional_check import Case, check_case
from helpers.rule_cases.drawing import numbers
from helpers.running import outputs
from klieg.errors import GradientError
from klieg.export.autodiff import add_gradient
from klieg.export.autodiff.normal_form import normal_form

X = {"x": numbers((2, 4, 3, 2))}


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    case = Case(X, attributes={"approximate": approximate}, opset=20)
    check_case("Gelu", case, expanded=True)


def test_activations() -> None:
    check_case("ThresholdedRelu", Case(X, attributes={"alpha": 0.3}))
    check_case("ThresholdedRelu", Case(X))
    check_case("Shrink", Case(X, attributes={"lambd": 0.4, "bias": 0.1}))


def test_rms_normalization() -> None:
    for shape, axis in (((2,), -1), ((3, 2), 2)):
        scale = {"s": numbers(shape, seed=1)}
        # Its definition computes in float32.
        case = Case(X, scale, {"axis": axis}, opset=23)
        check_case("RMSNormalization", case, tolerance=1e-5)


def test_attention() -> None:
    heads = {n: numbers((1, 2, 3, 4), seed=i) for i, n in enumerate("qkv")}
    for attributes in ({}, {"is_causal": 1, "scale": 0.3}):
        check_case("Attention", Case(heads, attributes=attributes, opset=23))
    flat = {n: numbers((1, 3, 4), seed=i) for i, n in enumerate("qkv")}
    attributes = {"q_num_heads": 2, "kv_num_heads": 2}
    check_case("Attention", Case(flat, attributes=attributes, opset=23))


WEIGHT = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)


def classifier(opset: int, *nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """Return x [batch, 2, h, w] -> nodes -> r -> logits [batch, 3]."""
    head = (
        oh.make_node("GlobalAveragePool", ["r"], ["p"]),
        oh.make_node("Flatten", ["p"], ["f"]),
        oh.make_node("Mul", ["f", "f"], ["f2"]),
        oh.make_node("MatMul", ["f2", "weight"], ["logits"]),
    )
    graph = oh.make_graph(
        [*nodes, *head],
        "g",
        [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 2, "h", "w"])],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(v, n) for n, v in {"weight": WEIGHT, **weights}.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("groups", [1, 2])
def test_group_normalization(opset: int, groups: int) -> None:
    """Against torch, since its definition computes in float32: one scale per group until 21."""
    scale, bias = np.array([0.7, -1.2], np.float32), np.array([0.3, 0.1], np.float32)
    count = groups if opset < 21 else 2
    given = {"s": scale[:count], "b": bias[:count]}
    node = oh.make_node("GroupNormalization", ["x", "s", "b"], ["r"], num_groups=groups)
    model = classifier(opset, node, **given)
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 3), dtype=np.float32)

    image = torch.from_numpy(x).requires_grad_()
    weight, shift = (torch.from_numpy(given[n]).repeat_interleave(2 // count) for n in "sb")
    logits = functional.group_norm(image, groups, weight, shift).mean((2, 3)) ** 2
    (expected,) = torch.autograd.grad((logits @ torch.from_numpy(WEIGHT))[:, 1].sum(), image)

    result = add_gradient(model, score="logits", wrt="x")
    got = outputs(result, {"x": x, "target": np.ones(3, np.int64)})
    np.testing.assert_allclose(got["logits"], (logits.detach().numpy()) @ WEIGHT, atol=1e-5)
    np.testing.assert_allclose(got["gradient"], expected, atol=1e-6)


@pytest.mark.parametrize("opset", [8, 24])
def test_opsets_outside_9_to_23_are_refused(opset: int) -> None:
    with pytest.raises(GradientError, match=rf"opset {opset}, expected 9 to 23"):
        add_gradient(classifier(opset, oh.make_node("Relu", ["x"], ["r"])), score="logits", wrt="x")


def test_what_opset_18_cannot_say_is_refused() -> None:
    node = oh.make_node(
        "AveragePool", ["x"], ["r"], kernel_shape=[2, 2], dilations=[2, 2], name="wide"
    )
    with pytest.raises(GradientError, match=r"opset 19 and cannot be expressed at 18.*dilations"):
        add_gradient(classifier(19, node), score="logits", wrt="x")


def test_constants_are_computed() -> None:
    """Padding by amounts that an exporter computes from fixed shapes becomes a number."""
    zero = oh.make_tensor("zero", onnx.TensorProto.INT64, [1], [0])
    nodes = [
        oh.make_node("Shape", ["x"], ["shape"]),
        oh.make_node("Shape", ["shape"], ["rank"]),
        oh.make_node("Add", ["rank", "rank"], ["twice"]),
        oh.make_node("ConstantOfShape", ["twice"], ["pads"], value=zero),
        oh.make_node("Pad", ["x", "pads"], ["r"], mode="reflect"),
    ]
    model = normal_form(classifier(18, *nodes))
    assert "Shape" not in {node.op_type for node in model.graph}
    add_gradient(classifier(18, *nodes), score="logits", wrt="x")


def test_tensors_asked_for_are_kept() -> None:
    nodes = [oh.make_node("Relu", ["x"], ["a"]), oh.make_node("Identity", ["a"], ["r"])]
    result = add_gradient(classifier(18, *nodes), score="logits", wrt="r")
    assert result.graph.output[-1].name == "gradient"
