"""Every rule against finite differences in float64, run by ONNX's own reference implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.errors import GradientError, UnsupportedOperatorError
from klieg.export.autodiff.emitter import Emitter
from klieg.export.autodiff.engine import Cotangent, pull_back
from klieg.export.autodiff.gradient import find_tensor
from klieg.export.autodiff.normal_form import normal_form
from klieg.export.autodiff.rules import STANDARD_RULES
from klieg.export.float64 import evaluator

STEP = 1e-6
TOLERANCE = 1e-7  # central differences in float64: STEP**2 + 1e-16 / STEP, with room for large sums


def model_of(
    op_type: str,
    inputs: dict[str, np.ndarray],
    *,
    dynamic: bool,
    constants: dict[str, np.ndarray] | None = None,
    order: list[str] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node in float64; `order` names its operands, "" leaves one out."""
    constants = constants or {}
    operands = order or [*inputs, *constants]
    node = onnx.helper.make_node(op_type, operands, ["y"], name="the_node", **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "one_node",
        [
            onnx.helper.make_tensor_value_info(
                name,
                onnx.TensorProto.DOUBLE,
                [
                    f"{name}{axis}" if dynamic and axis != 1 and size != 1 else size
                    for axis, size in enumerate(value.shape)
                ],
            )
            for name, value in inputs.items()
        ],
        [onnx.helper.make_empty_tensor_value_info("y")],
        initializer=[onnx.numpy_helper.from_array(v, name) for name, v in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


def check(op_type: str, inputs: dict[str, np.ndarray], wrt: str, **options: Any) -> None:
    """Compare the gradient of sum(seed * y) by `wrt` with finite differences at every element."""
    for dynamic in (False, True):
        proto = model_of(op_type, inputs, dynamic=dynamic, **options)
        forward = evaluator(proto)
        (y,) = forward.run(None, inputs)
        seed = np.random.default_rng(1).standard_normal(y.shape)

        model = normal_form(proto)
        op = Emitter(model.graph)
        value = find_tensor(model.graph, wrt)
        total = pull_back(
            op,
            model.graph,
            score=find_tensor(model.graph, "y"),
            seed=Cotangent(op.constant(seed)),
            wrt=value,
            rules=STANDARD_RULES,
        )
        model.graph.outputs.clear()
        model.graph.outputs.append(total.expanded(op, value))
        (got,) = evaluator(ir.to_proto(model)).run(None, inputs)

        want = np.empty_like(inputs[wrt])
        for place in np.ndindex(want.shape):
            sides = []
            for sign in (1, -1):
                moved = {k: v.copy() for k, v in inputs.items()}
                moved[wrt][place] += sign * STEP
                sides.append((forward.run(None, moved)[0] * seed).sum())
            want[place] = (sides[0] - sides[1]) / (2 * STEP)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=TOLERANCE * max(1, np.abs(want).max()), rtol=0)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normal numbers with no two nearly equal, so that no step crosses a kink or a tie."""
    generator = np.random.default_rng(seed)
    count = int(np.prod(shape))
    spread = np.linspace(-2, 2, count + 2)[1:-1] + 0.01 / (count + 1)
    return generator.permutation(spread).reshape(shape)


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


def test_sqrt() -> None:
    check("Sqrt", {"x": np.abs(numbers(2, 3)) + 0.5}, "x")


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
@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceSum"])
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


convolutions = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "kernel": st.tuples(st.integers(1, 4), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "dilations": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "pads": st.tuples(*[st.integers(0, 2)] * 4),
        "group": st.sampled_from([1, 2]),
        "batch": st.sampled_from([1, 2]),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions)
def test_conv(case: dict[str, Any]) -> None:
    covered = [
        n + b + e - d * (k - 1) - 1
        for n, k, d, b, e in zip(
            case["size"], case["kernel"], case["dilations"], case["pads"][:2], case["pads"][2:],
            strict=True,
        )
    ]  # fmt: skip
    if min(covered) < 0:
        return  # the window does not fit: no such model exists
    group = case["group"]
    weight = numbers(2 * group, 2, *case["kernel"], seed=1)
    check(
        "Conv",
        {"x": numbers(case["batch"], 2 * group, *case["size"])},
        "x",
        constants={"w": weight},
        strides=case["strides"],
        dilations=case["dilations"],
        pads=case["pads"],
        group=group,
    )


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_conv_automatic_padding(automatic: str) -> None:
    check(
        "Conv", {"x": numbers(1, 2, 5, 6)}, "x", constants={"w": numbers(3, 2, 3, 2, seed=1)},
        auto_pad=automatic,
    )  # fmt: skip


@pytest.mark.parametrize("spatial", [(5,), (3, 4, 5)])
def test_conv_one_and_three_axes(spatial: tuple[int, ...]) -> None:
    kernel = [2] * len(spatial)
    check(
        "Conv", {"x": numbers(1, 2, *spatial)}, "x", strides=[2] * len(spatial),
        constants={"w": numbers(2, 2, *kernel, seed=1)},
    )  # fmt: skip


pools = st.fixed_dictionaries(
    {
        "size": st.tuples(st.integers(1, 8), st.integers(1, 8)),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "pads": st.tuples(*[st.integers(0, 1)] * 4),
        "include": st.booleans(),
    }
)


def _fits(case: dict[str, Any]) -> bool:
    pads = case["pads"]
    return all(
        n + pads[i] + pads[i + 2] >= k and max(pads[i], pads[i + 2]) < k
        for i, (n, k) in enumerate(zip(case["size"], case["kernel"], strict=True))
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pools)
def test_max_pool(case: dict[str, Any]) -> None:
    if _fits(case):
        check(
            "MaxPool", {"x": numbers(2, 2, *case["size"])}, "x",
            kernel_shape=case["kernel"], strides=case["strides"], pads=case["pads"],
        )  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pools)
def test_average_pool(case: dict[str, Any]) -> None:
    if _fits(case):
        check(
            "AveragePool", {"x": numbers(2, 2, *case["size"])}, "x",
            kernel_shape=case["kernel"], strides=case["strides"], pads=case["pads"],
            count_include_pad=int(case["include"]),
        )  # fmt: skip


@pytest.mark.parametrize("size", [(5, 6), (6, 8), (7, 4)])
def test_max_pool_ceil_mode(size: tuple[int, int]) -> None:
    check(
        "MaxPool", {"x": numbers(1, 2, *size)}, "x",
        kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1,
    )  # fmt: skip


def test_unsupported_operator_is_named() -> None:
    proto = model_of("CumSum", {"x": numbers(3)}, dynamic=False, constants={"axis": np.array(0)})
    model = normal_form(proto)
    op = Emitter(model.graph)
    with pytest.raises(UnsupportedOperatorError, match=r"CumSum.*the_node"):
        pull_back(
            op,
            model.graph,
            score=find_tensor(model.graph, "y"),
            seed=Cotangent(op.constant(numbers(3))),
            wrt=find_tensor(model.graph, "x"),
            rules=STANDARD_RULES,
        )


@pytest.mark.parametrize(
    ("op_type", "attributes", "constants"),
    [
        ("Pad", {"mode": "reflect"}, {"pads": np.array([0, 0, 1, 0, 0, 0, 0, 0])}),
        ("Dropout", {}, {"ratio": np.array(0.5), "training": np.array(True)}),
    ],
)
def test_unsupported_use_is_an_error(
    op_type: str, attributes: dict[str, Any], constants: dict[str, np.ndarray]
) -> None:
    with pytest.raises(GradientError, match="cannot differentiate"):
        check(op_type, {"x": numbers(1, 2, 3, 4)}, "x", constants=constants, **attributes)
