"""Looking into bare classifiers, those that cannot be exported included."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from helpers.bare_models import with_metadata_inputs
from klieg.errors import GradientError
from klieg.export.inspection.classifier import MeasuredMap, Tensor, WithoutRule, inspect_model

FLOAT = onnx.TensorProto.FLOAT
STEM = oh.make_node("Conv", ["x", "kernel"], ["stem"], name="stem_node")
HEAD = (
    oh.make_node("GlobalAveragePool", ["last"], ["pooled"]),
    oh.make_node("Flatten", ["pooled"], ["flat"]),
    oh.make_node("MatMul", ["flat", "weight"], ["logits"]),
)
RELU = oh.make_node("Relu", ["stem"], ["last"])
POOL = oh.make_node("MaxPool", ["stem"], ["last"], kernel_shape=[2, 2], strides=[2, 2])


def classifier(
    *nodes: onnx.NodeProto,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("logits",),
    side: int | str = "side",
) -> onnx.ModelProto:
    """Return x [batch, 3, side, side] -> nodes -> logits [batch, 5]."""
    generator = np.random.default_rng(0)
    weights = {
        "kernel": generator.standard_normal((4, 3, 3, 3)),
        "weight": generator.standard_normal((4, 5)),
    }
    graph = oh.make_graph(
        list(nodes),
        "classifier",
        [oh.make_tensor_value_info(name, FLOAT, ["batch", 3, side, side]) for name in inputs],
        [oh.make_tensor_value_info(name, FLOAT, ["batch", 5]) for name in outputs],
        [onnx.numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)


SOFTMAX = oh.make_node("Softmax", ["logits"], ["probabilities"])


def test_everything_about_a_classifier() -> None:
    found = inspect_model(
        classifier(STEM, POOL, *HEAD, SOFTMAX, outputs=("probabilities",), side=32)
    )
    assert found.opset == 18
    assert found.nodes == 6
    assert found.inputs == (Tensor("x", "float32", ("batch", 3, 32, 32)),)
    assert found.outputs == (Tensor("probabilities", "float32", ("batch", 5)),)
    assert (found.image, found.score, found.classes) == ("x", "logits", 5)
    assert found.final_operator == "Softmax"
    assert found.feature_maps == (
        MeasuredMap("stem", "Conv", (1, 4, 30, 30)),
        MeasuredMap("last", "MaxPool", (1, 4, 15, 15)),
    )
    assert found.default_layer == "last"
    assert found.without_rule == ()
    assert found.problems == ()


def test_tensors_aside_are_no_feature_maps() -> None:
    aside = oh.make_node("Neg", ["x"], ["aside"])
    found = inspect_model(classifier(STEM, aside, RELU, *HEAD))
    assert [one.name for one in found.feature_maps] == ["stem", "last"]
    assert found.feature_maps[0].shape == (1, 4, 222, 222)


def test_an_operator_without_a_rule_before_the_layer_does_no_harm() -> None:
    before = oh.make_node("RandomNormalLike", ["x"], ["y"], name="early")
    stem = oh.make_node("Conv", ["y", "kernel"], ["stem"])
    found = inspect_model(classifier(before, stem, RELU, *HEAD))
    assert found.without_rule == (
        WithoutRule("early", "RandomNormalLike", "y", behind_layer=False),
    )
    assert found.default_layer == "last"
    assert found.problems == ()


def test_an_operator_without_a_rule_behind_the_layer_is_a_problem() -> None:
    noise = oh.make_node("RandomNormalLike", ["flat"], ["noise"], name="late")
    matrix = oh.make_node("MatMul", ["noise", "weight"], ["logits"])
    found = inspect_model(classifier(STEM, RELU, *HEAD[:2], noise, matrix))
    assert found.without_rule == (
        WithoutRule("late", "RandomNormalLike", "noise", behind_layer=True),
    )
    assert found.problems == ("an operator behind the default layer has no gradient rule",)


def test_a_use_that_its_rule_refuses_is_a_problem() -> None:
    ones = [f"s{index}" for index in range(4)]
    node = oh.make_node(
        "BatchNormalization",
        ["last", *ones],
        ["normal", "m", "v"],
        name="training",
        training_mode=1,
    )
    pool = oh.make_node("GlobalAveragePool", ["normal"], ["pooled"])
    model = classifier(STEM, RELU, node, pool, *HEAD[1:], side=32)
    for name in ones:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), name))
    found = inspect_model(model)
    assert found.feature_maps[-1].name == "normal"
    assert found.problems == ()  # the default layer lies behind it
    head = oh.make_node("GlobalMaxPool", ["wide"], ["pooled"])
    squeeze = oh.make_node("GlobalAveragePool", ["last"], ["narrow"])
    wide = oh.make_node(
        "BatchNormalization", ["narrow", *ones], ["wide", "m", "v"], training_mode=1
    )
    model = classifier(STEM, RELU, squeeze, wide, head, *HEAD[1:], side=32)
    for name in ones:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), name))
    assert "training mode" in inspect_model(model).problems[0]


def test_several_inputs_and_the_rest_is_shown() -> None:
    both = oh.make_node("Add", ["a", "b"], ["x"])
    found = inspect_model(classifier(both, STEM, RELU, *HEAD, inputs=("a", "b"), side=32))
    assert found.image is None
    assert found.default_layer is None
    assert "'a" in found.problems[0].replace('"', "'")
    assert [one.shape for one in found.feature_maps] == [
        (1, 3, 32, 32),
        (1, 4, 30, 30),
        (1, 4, 30, 30),
    ]


def test_no_score_and_the_rest_is_shown() -> None:
    model = classifier(STEM, RELU, *HEAD)
    del model.graph.output[:]
    model.graph.output.append(oh.make_tensor_value_info("last", FLOAT, ["batch", 4, "h", "w"]))
    found = inspect_model(model)
    assert found.image == "x"
    assert found.score is None
    assert [one.name for one in found.feature_maps] == ["stem", "last"]
    assert "expected one" in found.problems[0]


def test_no_feature_map() -> None:
    flat = oh.make_node("Flatten", ["x"], ["flat"])
    reduced = oh.make_node("ReduceMean", ["x", "axes"], ["few"], keepdims=0)
    matrix = oh.make_node("Gemm", ["few", "weight"], ["logits"])
    model = classifier(flat, reduced, matrix)
    model.graph.initializer[1].CopyFrom(
        onnx.numpy_helper.from_array(np.ones((3, 5), np.float32), "weight")
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 3]), "axes"))
    found = inspect_model(model)
    assert found.feature_maps == ()
    assert "no feature map" in found.problems[0]


def test_other_inputs_and_the_rest_is_shown() -> None:
    found = inspect_model(with_metadata_inputs())
    assert "inputs besides the image 'image': ['age', 'scale']" in found.problems[0]
    assert [one.name for one in found.inputs] == ["image", "age", "scale"]
    assert found.image == "image"
    assert "r" in [one.name for one in found.feature_maps]


def test_a_malformed_model_shows_its_interface() -> None:
    found = inspect_model(classifier(oh.make_node("Conv", ["x"], ["last"]), *HEAD))
    assert found.inputs[0].name == "x"
    assert found.feature_maps == ()
    assert found.problems


def test_a_model_that_the_engine_refuses_shows_its_interface() -> None:
    strange = oh.make_node("Strange", ["x"], ["stem"], domain="mine")
    model = classifier(strange, RELU, *HEAD)
    model.opset_import.append(oh.make_opsetid("mine", 1))
    found = inspect_model(model)
    assert found.outputs[0].name == "logits"
    assert found.problems


def test_no_opset() -> None:
    model = classifier(STEM, RELU, *HEAD)
    del model.opset_import[:]
    with pytest.raises(GradientError, match="no opset"):
        inspect_model(model)
