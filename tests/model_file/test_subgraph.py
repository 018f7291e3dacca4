"""A model cut down to some outputs: valid, equal, and no larger than it has to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper as h
import onnxruntime
import pytest

from klieg.model_file.onnx_file import read_onnx
from klieg.model_file.subgraph import subgraph

FLOAT = onnx.TensorProto.FLOAT


def model() -> onnx.ModelProto:
    """Return a graph with two outputs; y = If(big) x * c else x, captured from outside."""
    branch = [
        h.make_graph(
            [h.make_node(op, inputs, ["r"])], name, [], [h.make_tensor_value_info("r", FLOAT, [2])]
        )
        for name, op, inputs in (("t", "Mul", ["scaled", "c"]), ("e", "Identity", ["x"]))
    ]
    nodes = [
        h.make_node("Mul", ["x", "a"], ["scaled"]),
        h.make_node("Add", ["x", "b"], ["other"]),
        h.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        h.make_node("Greater", ["largest", "zero"], ["big"]),
        h.make_node("If", ["big"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    values = {"a": [2, 3], "b": [5, 5], "c": [7, 8], "zero": 0}
    weights = [onnx.numpy_helper.from_array(np.array(v, np.float32), n) for n, v in values.items()]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", FLOAT, [2])],
        [h.make_tensor_value_info(name, FLOAT, [2]) for name in ("y", "other")],
        weights,
        value_info=[h.make_tensor_value_info("scaled", FLOAT, [2])],
    )
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    h.set_model_props(made, {"key": "value"})
    return made


def run(data: bytes, name: str) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run([name], {"x": np.array([1, -4], np.float32)})[0]


@pytest.mark.parametrize(
    ("name", "operators", "weights"),
    [("other", ["Add"], {"b"}), ("y", ["Mul", "ReduceMax", "Greater", "If"], {"a", "c", "zero"})],
)
def test_keeps_what_an_output_needs(name: str, operators: list[str], weights: set[str]) -> None:
    whole = model().SerializeToString()
    cut = subgraph(whole, [name])
    found = onnx.load_from_string(cut)
    onnx.checker.check_model(found, full_check=True)
    assert [node.op_type for node in found.graph.node] == operators
    assert {tensor.name for tensor in found.graph.initializer} == weights
    assert [output.name for output in found.graph.output] == [name]
    assert read_onnx(cut).metadata == {"key": "value"}
    np.testing.assert_array_equal(run(cut, name), run(whole, name))


def test_all_outputs_are_the_model_itself(small_explainer: Path) -> None:
    data = small_explainer.read_bytes()
    cut = subgraph(data, ["logits", "activation", "gradient"])
    assert onnx.load_from_string(cut) == onnx.load_from_string(data)
    logits = onnx.load_from_string(subgraph(data, ["logits"]))
    assert [i.name for i in logits.graph.input] == ["image", "target"]  # fed in any case
