"""The public entry add_gradient, on graphs small enough to see through."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest
import torch

from helpers.running import outputs
from klieg.errors import GradientError, UnsupportedOperatorError
from klieg.export.autodiff import add_gradient

FLOAT = onnx.TensorProto.FLOAT


def classifier(*nodes: onnx.NodeProto, opset: int = 18, **weights: np.ndarray) -> onnx.ModelProto:
    """Return x [batch, 2, h, w] -> nodes -> logits [batch, 3]."""
    graph = oh.make_graph(
        list(nodes),
        "classifier",
        [oh.make_tensor_value_info("x", FLOAT, ["batch", 2, "h", "w"])],
        [oh.make_tensor_value_info("logits", FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)], ir_version=8)


HEAD = (
    oh.make_node("GlobalAveragePool", ["r"], ["p"]),
    oh.make_node("Flatten", ["p"], ["f"]),
    oh.make_node("MatMul", ["f", "weight"], ["logits"]),
)
WEIGHT = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)


def simple(**options: int) -> onnx.ModelProto:
    return classifier(oh.make_node("Relu", ["x"], ["r"]), *HEAD, weight=WEIGHT, **options)


def run(model: onnx.ModelProto, x: np.ndarray, target: list[int]) -> dict[str, np.ndarray]:
    return outputs(model, {"x": x, "target": np.array(target, dtype=np.int64)})


def test_interface() -> None:
    model = simple()
    before = model.SerializeToString()
    result = add_gradient(model, score="logits", wrt="x")
    assert model.SerializeToString() == before, "the argument must not change"
    onnx.checker.check_model(result, full_check=True)
    assert [i.name for i in result.graph.input] == ["x", "target"]
    assert [o.name for o in result.graph.output] == ["logits", "gradient"]
    assert [o.version for o in result.opset_import if o.domain == ""] == [18]


def test_values_targets_and_prediction() -> None:
    model = add_gradient(simple(), score="logits", wrt="x")
    x = np.array([[[[1, -1]], [[2, 3]]], [[[5, 5]], [[-1, -1]]]], dtype=np.float32)
    out = run(model, x, [0, -1])
    positive = x > 0
    assert out["logits"].argmax(axis=1).tolist() == [2, 2]
    for image, label in ((0, 0), (1, 2)):
        expected = positive[image] * WEIGHT[:, label].reshape(2, 1, 1) / 2
        np.testing.assert_array_equal(out["gradient"][image], expected)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8)])
def test_axes_stay_dynamic(batch: int, size: tuple[int, int]) -> None:
    model = add_gradient(simple(), score="logits", wrt="x")
    x = np.random.default_rng(0).standard_normal((batch, 2, *size)).astype(np.float32)
    assert run(model, x, [1] * batch)["gradient"].shape == x.shape


@pytest.mark.parametrize("wrt", ["r", "p", "f", "logits"])
def test_any_tensor_can_be_asked_for(wrt: str) -> None:
    out = run(
        add_gradient(simple(), score="logits", wrt=wrt), np.ones((1, 2, 2, 2), np.float32), [1]
    )
    expected = {
        "r": np.tile(WEIGHT[:, 1].reshape(1, 2, 1, 1) / 4, (1, 1, 2, 2)),
        "p": WEIGHT[:, 1].reshape(1, 2, 1, 1),
        "f": WEIGHT[None, :, 1],
        "logits": np.array([[0, 1, 0]]),
    }[wrt]
    np.testing.assert_allclose(out["gradient"], expected)  # constant axes are expanded here


def test_one_hot_products_are_read_not_multiplied() -> None:
    operators = [n.op_type for n in add_gradient(simple(), score="logits", wrt="x").graph.node]
    assert "Gather" in operators
    assert "OneHot" not in operators
    assert operators.count("MatMul") == 1  # the classifier's own


def test_older_opset_is_converted() -> None:
    out = run(
        add_gradient(simple(opset=13), score="logits", wrt="x"),
        np.ones((1, 2, 1, 1), np.float32),
        [0],
    )
    np.testing.assert_allclose(out["gradient"].ravel(), WEIGHT[:, 0])


def test_max_pool_ties_go_to_the_first_cell_as_in_torch() -> None:
    model = classifier(
        oh.make_node(
            "MaxPool", ["x"], ["r"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        *HEAD,
        weight=WEIGHT,
    )
    x = np.random.default_rng(0).integers(0, 2, (2, 2, 7, 6)).astype(np.float32)  # many ties
    got = run(add_gradient(model, score="logits", wrt="x"), x, [0, 2])["gradient"]
    image = torch.from_numpy(x).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(image, 3, 2, 1).mean(dim=(2, 3))
    logits = pooled @ torch.from_numpy(WEIGHT)
    (logits[0, 0] + logits[1, 2]).backward()
    np.testing.assert_allclose(got, image.grad.numpy(), atol=1e-6)


def test_both_ways_through_a_branch_count() -> None:
    model = classifier(
        oh.make_node("Relu", ["x"], ["a"]),
        oh.make_node("Add", ["a", "x"], ["r"]),
        *HEAD,
        weight=WEIGHT,
    )
    x = np.array([[[[1.0]], [[-1.0]]]], dtype=np.float32)
    got = run(add_gradient(model, score="logits", wrt="x"), x, [0])["gradient"]
    np.testing.assert_allclose(got.ravel(), [2 * WEIGHT[0, 0], WEIGHT[1, 0]])


def test_shared_expressions_are_written_once() -> None:
    result = add_gradient(simple(), score="logits", wrt="x")
    keys = [(n.op_type, tuple(n.input), str(n.attribute)) for n in result.graph.node]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("score", "wrt", "message"),
    [
        ("logitz", "x", "did you mean 'logits'"),
        ("logits", "y", "no tensor named 'y'"),
        ("p", "x", r"expected \[batch, classes\]"),
        ("r", "f", r"shape \[\?, 2, \?, \?\]"),
    ],
)
def test_wrong_names(score: str, wrt: str, message: str) -> None:
    with pytest.raises(GradientError, match=message):
        add_gradient(simple(), score=score, wrt=wrt)


def test_tensor_that_does_not_lead_to_the_score() -> None:
    model = classifier(
        oh.make_node("Relu", ["x"], ["r"]),
        oh.make_node("Neg", ["x"], ["aside"]),
        *HEAD,
        weight=WEIGHT,
    )
    with pytest.raises(GradientError, match="'aside' does not lead to 'logits'"):
        add_gradient(model, score="logits", wrt="aside")


def test_integer_tensors_carry_no_gradient() -> None:
    model = classifier(
        oh.make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.INT64),
        oh.make_node("Cast", ["i"], ["r"], to=FLOAT),
        *HEAD,
        weight=WEIGHT,
    )
    with pytest.raises(GradientError, match="does not lead"):
        add_gradient(model, score="logits", wrt="x")
    with pytest.raises(GradientError, match="INT64"):
        add_gradient(model, score="logits", wrt="i")


def test_name_taken() -> None:
    model = classifier(
        oh.make_node("Relu", ["x"], ["target"]),
        oh.make_node("Identity", ["target"], ["r"]),
        *HEAD,
        weight=WEIGHT,
    )
    with pytest.raises(GradientError, match="already has a tensor 'target'"):
        add_gradient(model, score="logits", wrt="x")


def test_operator_without_a_rule_is_named() -> None:
    model = classifier(oh.make_node("Det", ["x"], ["r"], name="culprit"), *HEAD, weight=WEIGHT)
    with pytest.raises(UnsupportedOperatorError, match="culprit"):
        add_gradient(model, score="logits", wrt="x")


def test_branches_on_the_path_are_refused() -> None:
    inner = oh.make_graph(
        [oh.make_node("Relu", ["x"], ["inside"])],
        "then",
        [],
        [oh.make_tensor_value_info("inside", FLOAT, None)],
    )
    node = oh.make_node(
        "If", ["condition"], ["r"], name="fork", then_branch=inner, else_branch=inner
    )
    decide = (
        oh.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        oh.make_node("Greater", ["largest", "zero"], ["condition"]),
    )
    model = classifier(*decide, node, *HEAD, weight=WEIGHT, zero=np.array(0, np.float32))
    with pytest.raises(GradientError, match="fork"):
        add_gradient(model, score="logits", wrt="x")


def test_a_branch_that_is_always_taken_is_followed() -> None:
    inner = oh.make_graph(
        [oh.make_node("Relu", ["x"], ["inside"])],
        "then",
        [],
        [oh.make_tensor_value_info("inside", FLOAT, None)],
    )
    node = oh.make_node("If", ["condition"], ["r"], then_branch=inner, else_branch=inner)
    model = classifier(node, *HEAD, weight=WEIGHT, condition=np.array(True))
    x = np.ones((1, 2, 1, 1), np.float32)
    plain, branched = (add_gradient(m, score="logits", wrt="x") for m in (simple(), model))
    np.testing.assert_array_equal(run(branched, x, [1])["gradient"], run(plain, x, [1])["gradient"])


def test_training_mode_is_refused() -> None:
    ones = np.ones(2, np.float32)
    model = classifier(
        oh.make_node(
            "BatchNormalization", ["x", "s", "b", "m", "v"], ["r", "m2", "v2"], training_mode=1
        ),
        *HEAD,
        weight=WEIGHT,
        s=ones,
        b=ones,
        m=ones,
        v=ones,
    )
    with pytest.raises(GradientError, match="training mode"):
        add_gradient(model, score="logits", wrt="x")
