"""Every other rule against finite differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.gradient_check import check, model_of, numbers
from klieg.errors import GradientError, UnsupportedOperatorError
from klieg.export.autodiff.emitter import Emitter
from klieg.export.autodiff.engine import Cotangent, pull_back
from klieg.export.autodiff.gradient import find_tensor
from klieg.export.autodiff.normal_form import normal_form
from klieg.export.autodiff.rules.tables import STANDARD_RULES


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Relu", {}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("HardSwish", {}),
        ("Exp", {}),
        ("Abs", {}),
        ("Celu", {"alpha": 0.7}),
        ("Elu", {"alpha": 0.7}),
        ("Erf", {}),
        ("Mish", {}),
        ("Selu", {}),
        ("Softplus", {}),
        ("Softsign", {}),
        ("Softmax", {"axis": 1}),
        ("Softmax", {}),
        ("LogSoftmax", {"axis": 2}),
        ("Neg", {}),
        ("Identity", {}),
        ("Flatten", {"axis": 2}),
        ("Transpose", {"perm": [2, 0, 3, 1]}),
        ("Transpose", {}),
        ("GlobalAveragePool", {}),
        ("GlobalMaxPool", {}),
        ("ReduceMean", {}),
        ("ReduceMean", {"keepdims": 0}),
        ("ReduceSum", {"noop_with_empty_axes": 1}),
    ],
)
@pytest.mark.parametrize("shape", [(1, 2, 3, 5), (7, 1, 1, 1), (2, 3, 4, 4)])
def test_one_input(op_type: str, attributes: dict[str, Any], shape: tuple[int, ...]) -> None:
    x = numbers(*shape) * (4 if op_type == "HardSwish" else 1)
    check(op_type, {"x": x}, "x", **attributes)


@pytest.mark.parametrize("op_type", ["Sqrt", "Log", "Reciprocal"])
def test_positive_input(op_type: str) -> None:
    check(op_type, {"x": np.abs(numbers(2, 3)) + 0.5}, "x")


@pytest.mark.parametrize("wrt", ["x", "p"])
@pytest.mark.parametrize("shape", [(2, 3), (1, 1)])
def test_power(wrt: str, shape: tuple[int, ...]) -> None:
    operands = {"x": np.abs(numbers(2, 3)) + 0.5, "p": numbers(*shape, seed=1)}
    check("Pow", {wrt: operands.pop(wrt)}, wrt, constants=operands, order=["x", "p"])


@pytest.mark.parametrize("op_type", ["Max", "Min", "Mean"])
@pytest.mark.parametrize("wrt", ["a", "b", "c"])
def test_several_inputs(op_type: str, wrt: str) -> None:
    operands = {"a": numbers(2, 3), "b": numbers(2, 3, seed=1) * 0.9, "c": numbers(1, 3, seed=2)}
    operands["c"] *= 1.1
    check(op_type, {wrt: operands.pop(wrt)}, wrt, constants=operands, order=["a", "b", "c"])


@pytest.mark.parametrize("wrt", ["a", "b"])
def test_where(wrt: str) -> None:
    operands = {"a": numbers(2, 3), "b": numbers(3, seed=1)}
    condition = {"condition": np.array([[True, False, True], [False, False, True]])}
    check(
        "Where", {wrt: operands.pop(wrt)}, wrt, constants=operands | condition,
        order=["condition", "a", "b"],
    )  # fmt: skip


def test_prelu() -> None:
    constants = {"slope": numbers(2, 1, 1, seed=1)}
    check("PRelu", {"x": numbers(2, 2, 3, 3)}, "x", constants=constants)


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_layer_normalization(axis: int) -> None:
    shape = (2, 3, 4, 5)[axis:]
    constants = {"scale": numbers(*shape, seed=1), "bias": numbers(*shape, seed=2)}
    check(
        "LayerNormalization", {"x": numbers(2, 3, 4, 5)}, "x", constants=constants, axis=axis,
        epsilon=0.01,
    )  # fmt: skip


def test_instance_normalization() -> None:
    constants = {"scale": numbers(3, seed=1), "bias": numbers(3, seed=2)}
    check(
        "InstanceNormalization", {"x": numbers(2, 3, 4, 5)}, "x", constants=constants, epsilon=0.01
    )


@pytest.mark.parametrize("limits", [["low", "high"], ["low"], ["", "high"], []])
def test_clip(limits: list[str]) -> None:
    constants = {"low": np.array(-0.7), "high": np.array(1.1)}
    used = {name: constants[name] for name in limits if name}
    check("Clip", {"x": numbers(2, 3, 3)}, "x", constants=used, order=["x", *limits])


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3, 4), (2, 3, 4)),
        ((2, 3, 4), (1, 3, 1)),
        ((3, 1), (2, 3, 4)),
        ((2, 3, 4, 5), (3, 1, 1)),
        ((1,), (2, 3)),
    ],
)
@pytest.mark.parametrize("wrt", ["a", "b"])
def test_broadcasting(
    op_type: str, left: tuple[int, ...], right: tuple[int, ...], wrt: str
) -> None:
    a, b = numbers(*left), numbers(*right, seed=1)
    b = np.where(np.abs(b) < 0.3, 0.5, b)
    for_rank = {"a": a, "b": b}
    # Axes of unknown size are taken as equal: broadcasting is known from the sizes that are fixed.
    proto_inputs = {wrt: for_rank[wrt]}
    other = "b" if wrt == "a" else "a"
    check(op_type, proto_inputs, wrt, constants={other: for_rank[other]}, order=["a", "b"])


def test_square_gets_both_contributions() -> None:
    check("Mul", {"x": numbers(2, 3)}, "x", order=["x", "x"])


def test_sum_of_three() -> None:
    check(
        "Sum", {"x": numbers(2, 3)}, "x",
        constants={"b": numbers(2, 3, seed=1), "c": numbers(1, 3, seed=2)},
    )  # fmt: skip


@pytest.mark.parametrize("a_turned", [0, 1])
@pytest.mark.parametrize("b_turned", [0, 1])
@pytest.mark.parametrize("wrt", ["a", "b", "c"])
def test_gemm(a_turned: int, b_turned: int, wrt: str) -> None:
    operands = {
        "a": numbers(4, 2) if a_turned else numbers(2, 4),
        "b": numbers(3, 4, seed=1) if b_turned else numbers(4, 3, seed=1),
        "c": numbers(1, 3, seed=2),
    }
    check(
        "Gemm", {wrt: operands.pop(wrt)}, wrt, constants=operands, order=["a", "b", "c"],
        alpha=0.7, beta=1.3, transA=a_turned, transB=b_turned,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 3), (3, 4)), ((2, 5, 2, 3), (3, 4)), ((4, 3), (2, 5, 3, 2)), ((2, 1, 4, 3), (5, 3, 2))],
)
@pytest.mark.parametrize("wrt", ["a", "b"])
def test_matmul(left: tuple[int, ...], right: tuple[int, ...], wrt: str) -> None:
    operands = {"a": numbers(*left), "b": numbers(*right, seed=1)}
    check("MatMul", {wrt: operands.pop(wrt)}, wrt, constants=operands, order=["a", "b"])


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("axis", [1, -1, 3])
def test_concat(index: int, axis: int) -> None:
    names = ["p", "q", "r"]
    sizes = [2, 1, 3]
    shapes = []
    for size in sizes:
        shape = [2, 2, 3, 2]
        shape[axis] = size
        shapes.append(shape)
    tensors = {n: numbers(*s, seed=i) for i, (n, s) in enumerate(zip(names, shapes, strict=True))}
    wrt = names[index]
    check("Concat", {wrt: tensors.pop(wrt)}, wrt, constants=tensors, order=names, axis=axis)


@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 0, 3], [0, 0, 0, 0, 0, 0, 0, 0]])
def test_pad(pads: list[int]) -> None:
    constants = {"pads": np.array(pads), "value": np.array(0.5)}
    check("Pad", {"x": numbers(2, 2, 3, 4)}, "x", constants=constants)


def test_pad_with_axes() -> None:
    constants = {"pads": np.array([1, 0, 2, 1]), "axes": np.array([-1, 2])}
    check(
        "Pad", {"x": numbers(1, 2, 3, 4)}, "x", constants=constants, order=["x", "pads", "", "axes"]
    )


@pytest.mark.parametrize(
    ("op_type", "extra"),
    [("Reshape", [0, -1]), ("Unsqueeze", [0, 3]), ("Expand", [4, 2, 1, 3, 5]), ("Expand", [1])],
)
def test_shape_operand(op_type: str, extra: list[int]) -> None:
    shape = (2, 1, 5) if op_type == "Expand" else (2, 3, 5)
    shape = (2, 1, 1, 5) if extra == [4, 2, 1, 3, 5] else shape
    check(op_type, {"x": numbers(*shape)}, "x", constants={"operand": np.array(extra)})


def test_squeeze() -> None:
    check("Squeeze", {"x": numbers(2, 1, 3, 1)}, "x", constants={"axes": np.array([1, -1])})


@pytest.mark.parametrize("axes", [[2, 3], [-1], [1], [0, 2]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    "op_type",
    [
        "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
        "ReduceSum", "ReduceSumSquare",
    ],
)  # fmt: skip
def test_reduce_axes(op_type: str, axes: list[int], keepdims: int) -> None:
    check(
        op_type, {"x": numbers(2, 3, 4, 2)}, "x", constants={"axes": np.array(axes)},
        keepdims=keepdims,
    )  # fmt: skip


def test_batch_normalization() -> None:
    generator = np.random.default_rng(0)
    constants = {
        "scale": generator.standard_normal(3),
        "bias": generator.standard_normal(3),
        "mean": generator.standard_normal(3),
        "variance": generator.uniform(0.1, 2, 3),
    }
    check("BatchNormalization", {"x": numbers(2, 3, 2, 4)}, "x", constants=constants, epsilon=0.01)


def test_unsupported_operator_is_named() -> None:
    proto = model_of("Det", {"x": numbers(3, 3)}, dynamic=False)
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
        check(op_type, {"x": numbers(1, 2, 3, 4)}, "x", constants=constants, **attributes)
