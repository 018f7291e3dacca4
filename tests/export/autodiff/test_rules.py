"""Uses of operators that the drawn cases leave out, and what has no rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import pytest

from helpers.directional_check import Case, check_case, operator_model
from helpers.rule_cases.drawing import numbers
from klieg.errors import GradientError, UnsupportedOperatorError
from klieg.export.autodiff import add_gradient
from klieg.export.autodiff.emitter import Emitter
from klieg.export.autodiff.engine import Cotangent, pull_back
from klieg.export.autodiff.gradient import find_tensor
from klieg.export.autodiff.normal_form import normal_form
from klieg.export.autodiff.rules.tables import STANDARD_RULES
from klieg.export.parity.float64 import evaluator


def test_square_gets_both_contributions() -> None:
    check_case("Mul", Case({"x": numbers((2, 3))}, order=["x", "x"]))


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceSum"])
def test_a_reduction_of_no_axes_copies(op_type: str) -> None:
    check_case(op_type, Case({"x": numbers((2, 3, 4))}, attributes={"noop_with_empty_axes": 1}))


def test_an_entry_with_many_copies_gets_their_sum() -> None:
    indices = {"indices": np.array([1] * 9 + [0])}
    check_case("Gather", Case({"x": numbers((2, 3, 4))}, indices, {"axis": 1}))


def test_negative_padding_cuts() -> None:
    pads = np.array([0, 0, -1, 2, 0, 0, 1, -2])
    check_case("Pad", Case({"x": numbers((1, 2, 3, 4))}, {"pads": pads}))


def test_a_slice_to_the_largest_integer_takes_the_rest() -> None:
    limits = {"starts": [1, 2], "ends": [2**31 - 1, 2**63 - 1], "axes": [2, 3]}
    constants = {name: np.array(values) for name, values in limits.items()}
    check_case("Slice", Case({"x": numbers((2, 3, 4, 5))}, constants))


def test_lrn_over_an_even_number_of_channels() -> None:
    attributes = {"size": 2, "alpha": 0.3, "beta": 0.6, "bias": 1.5}
    # ONNX Runtime takes odd numbers only.
    check_case("LRN", Case({"x": numbers((2, 4, 2, 3))}, attributes=attributes, engine=False))


@pytest.mark.parametrize("wanted", [["a"], ["b"], ["a", "c"]])
def test_split(wanted: list[str]) -> None:
    """Parts that lead nowhere get zeros: logits = sum over the wanted parts."""
    nodes = [
        oh.make_node("Split", ["x", "sizes"], ["a", "b", "c"], axis=1),
        *[oh.make_node("ReduceSum", [name, "one"], [name + "s"], keepdims=1) for name in wanted],
        oh.make_node("Sum", [name + "s" for name in wanted], ["logits"]),
    ]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["n", 6])],
        [oh.make_tensor_value_info("logits", onnx.TensorProto.DOUBLE, ["n", 1])],
        [
            onnx.numpy_helper.from_array(np.array([1, 2, 3]), "sizes"),
            onnx.numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)])
    result = add_gradient(model, score="logits", wrt="x")
    outputs: Any = evaluator(result).run(
        ["gradient"], {"x": numbers((2, 6)), "target": np.array([0, 0])}
    )
    parts = {"a": [0], "b": [1, 2], "c": [3, 4, 5]}
    expected = np.zeros((2, 6))
    expected[:, [i for name in wanted for i in parts[name]]] = 1
    np.testing.assert_array_equal(outputs[0], expected)
    assert ir.from_proto(result).graph.outputs[-1].name == "gradient"


def test_unsupported_operator_is_named() -> None:
    proto = operator_model("Det", Case({"x": numbers((3, 3))}), dynamic=False)
    model = normal_form(proto)
    op = Emitter(model.graph)
    with pytest.raises(UnsupportedOperatorError, match=r"Det.*the_node"):
        pull_back(
            op,
            model.graph,
            score=find_tensor(model.graph, "y"),
            seed=Cotangent(op.constant(np.array(1.0))),
            wrt=find_tensor(model.graph, "x"),
            rules=STANDARD_RULES,
        )


@pytest.mark.parametrize(
    ("op_type", "attributes", "constants"),
    [
        ("Pad", {"mode": "reflect"}, {"pads": np.array([0, 0, 1, 0, 0, 0, 0, -1])}),
        ("Dropout", {}, {"ratio": np.array(0.5), "training": np.array(True)}),
    ],
)
def test_unsupported_use_is_an_error(
    op_type: str, attributes: dict[str, Any], constants: dict[str, np.ndarray]
) -> None:
    with pytest.raises(GradientError, match="cannot differentiate"):
        check_case(op_type, Case({"x": numbers((1, 2, 3, 4))}, constants, attributes))
