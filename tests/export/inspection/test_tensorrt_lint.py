"""TensorRT's denylist: every entry on a graph of one or two nodes, held against the real parser."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from klieg.export.inspection.tensorrt_lint import REDUCTIONS, UNSUPPORTED, Finding, lint

FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
INT64, DOUBLE = onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE
MAPS = ["batch", 4, "height", "width"]


def model(
    *nodes: onnx.NodeProto,
    inputs: dict[str, tuple[int, list[Any]]] | None = None,
    y: tuple[int, list[Any]] = (FLOAT, ["batch", 4, "rows", "columns"]),
    functions: tuple[onnx.FunctionProto, ...] = (),
    opset: int = 19,
    **weights: Any,
) -> onnx.ModelProto:
    """Return x [batch, 4, height, width] -> nodes -> y."""
    graph = oh.make_graph(
        list(nodes),
        "graph",
        [
            oh.make_tensor_value_info(name, dtype, shape)
            for name, (dtype, shape) in (inputs or {"x": (FLOAT, MAPS)}).items()
        ],
        [oh.make_tensor_value_info("y", *y)],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()],
    )
    opsets = [oh.make_opsetid("", opset), oh.make_opsetid("mine", 1)]
    return oh.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9)


def one(op_type: str, *operands: str, **attributes: Any) -> onnx.NodeProto:
    return oh.make_node(op_type, list(operands), ["y"], name="culprit", **attributes)


def integers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def resize(**attributes: Any) -> onnx.ModelProto:
    return model(
        one("Resize", "x", "box", "s", **attributes),
        s=floats(1, 1, 2, 2),
        box=floats(0, 0, 0, 0, 1, 1, 1, 1),
    )


def scatter(operator: str, reduction: str) -> onnx.ModelProto:
    return model(
        one(operator, "x", "i", "u", reduction=reduction),
        inputs={"x": (FLOAT, [4, 4]), "u": (FLOAT, [1, 4])},
        y=(FLOAT, [4, 4]),
        i=integers(0, 1, 2, 3).reshape(1, 4) if operator == "ScatterElements" else [[0]],
    )


def top_k(k: int, **options: Any) -> onnx.ModelProto:
    node = oh.make_node("TopK", ["x", "k"], ["y", "i"], name="culprit", **options)
    wide = {"x": (FLOAT, ["batch", 6000])}
    return model(node, inputs=wide, y=(FLOAT, ["batch", k]), k=integers(k))


def quantised(zero: Any) -> onnx.ModelProto:
    int8 = (onnx.TensorProto.INT8, MAPS)
    return model(one("QuantizeLinear", "x", "s", "z"), y=int8, s=np.float32(0.1), z=zero)


def branches(inner: onnx.NodeProto) -> onnx.ModelProto:
    bodies = [
        oh.make_graph([node], name, [], [oh.make_tensor_value_info("y", FLOAT, MAPS)])
        for name, node in (("then", inner), ("else", oh.make_node("Relu", ["x"], ["y"])))
    ]
    fork = oh.make_node("If", ["c"], ["y"], then_branch=bodies[0], else_branch=bodies[1])
    return model(fork, inputs={"x": (FLOAT, MAPS), "c": (onnx.TensorProto.BOOL, [])})


def function(body: onnx.NodeProto) -> onnx.ModelProto:
    local = oh.make_function("mine", "Block", ["x"], ["y"], [body], [oh.make_opsetid("", 19)])
    return model(oh.make_node("Block", ["x"], ["y"], domain="mine"), functions=(local,))


RUNTIME_AXES = {"x": (FLOAT, MAPS), "a": (INT64, [1])}
INDICES = oh.make_node("MaxPool", ["x"], ["y", "i"], name="culprit", kernel_shape=[2, 2])
DILATED = {"kernel_shape": [2, 2], "dilations": [2, 2]}
NORMALISATION = ["x", "s", "s", "s", "s"]

REFUSED = {
    "Indices": model(INDICES),
    "dilated MaxPool": model(one("MaxPool", "x", **DILATED)),
    "dilated AveragePool": model(one("AveragePool", "x", **DILATED)),
    "half_pixel_symmetric": resize(coordinate_transformation_mode="half_pixel_symmetric"),
    "tf_crop_and_resize": resize(coordinate_transformation_mode="tf_crop_and_resize"),
    "antialias": resize(mode="linear", antialias=1),
    "aspect ratio": model(
        one("Resize", "x", "", "", "z", keep_aspect_ratio_policy="not_smaller"),
        z=integers(2, 4, 8, 8),
    ),
    "cubic": resize(mode="cubic"),
    **{
        f"{operator} {reduction}": scatter(operator, reduction)
        for operator in ("ScatterND", "ScatterElements")
        for reduction in ("add", "mul", "max", "min")
    },
    **{
        f"{operator} axes": model(one(operator, "x", "a"), inputs=RUNTIME_AXES, opset=18)
        for operator in sorted(REDUCTIONS)
    },
    "TopK of many": top_k(3841, axis=1),
    "TopK unsorted": top_k(5, axis=1, sorted=0),
    "depth": model(
        oh.make_node("Shape", ["x"], ["d"], start=2, end=3),
        one("OneHot", "t", "d", "v"),
        inputs={"x": (FLOAT, MAPS), "t": (INT64, ["batch"])},
        y=(FLOAT, ["batch", "depth"]),
        v=floats(0, 1),
    ),
    "NonZero": model(one("NonZero", "x"), y=(INT64, [4, "count"])),
    "zero point": quantised(np.int8(3)),
    "training BatchNormalization": model(
        oh.make_node(
            "BatchNormalization", NORMALISATION, ["y", "m", "v"], name="culprit", training_mode=1
        ),
        s=floats(1, 1, 1, 1),
    ),
    "training Dropout": model(one("Dropout", "x", "r", "t"), r=np.float32(0.5), t=np.array(True)),
    "other domain": model(one("Nothing", "x", domain="mine")),
    "domain of a known operator": model(one("Relu", "x", domain="mine")),
    "float64": model(one("Relu", "x"), inputs={"x": (DOUBLE, [4])}, y=(DOUBLE, [4])),
    "uint8 arithmetic": model(one("Add", "x", "x"), inputs={"x": (UINT8, [4])}, y=(UINT8, [4])),
    "uint8 inside": model(
        oh.make_node("Cast", ["x"], ["u"], name="culprit", to=UINT8),
        oh.make_node("Cast", ["u"], ["y"], to=FLOAT),
    ),
    "in a branch": branches(one("MaxPool", "x", **DILATED)),
    "in a function": function(one("MaxPool", "x", **DILATED)),
}

ACCEPTED = {
    "MaxPool": model(one("MaxPool", "x", kernel_shape=[3, 3], ceil_mode=1, dilations=[1, 1])),
    "linear": resize(mode="linear", coordinate_transformation_mode="align_corners"),
    "scatter": scatter("ScatterND", "none"),
    "constant axes": model(one("ReduceMax", "x", "a"), a=integers(2)),
    "axes of a Constant": model(
        oh.make_node("Constant", [], ["a"], value=onnx.numpy_helper.from_array(integers(2))),
        one("ReduceSum", "x", "a"),
    ),
    "TopK": top_k(3840, axis=1),
    "constant depth": model(
        one("OneHot", "t", "d", "v"),
        inputs={"t": (INT64, ["batch"])},
        y=(FLOAT, ["batch", 7]),
        v=floats(0, 1),
        d=np.array(7),
    ),
    "symmetric quantisation": quantised(np.int8(0)),
    "uint8 image": model(one("Cast", "x", to=FLOAT), inputs={"x": (UINT8, MAPS)}),
    "uint8 result": model(one("Cast", "x", to=UINT8), y=(UINT8, MAPS)),
    "function": function(oh.make_node("Relu", ["x"], ["y"])),
    "branch": branches(oh.make_node("Neg", ["x"], ["y"])),
}

STRICTER_THAN_THE_PARSER = {
    "cubic": "TensorRT-RTX 1.7.1 builds it, TensorRT 10.1 documents nearest and linear only",
    "TopK unsorted": "TensorRT-RTX 1.7.1 builds it, TensorRT 10.1 documents sorted only",
    "float64": "it is taken, and computed in float32",
    "domain of a known operator": "the parser goes by the name alone, whatever is meant by it",
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    findings = lint(REFUSED[case])
    assert {finding.node for finding in findings} == {"culprit"}
    assert all(finding.reason for finding in findings)


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    assert lint(ACCEPTED[case]) == []


@pytest.mark.parametrize("operator", sorted(UNSUPPORTED))
def test_unsupported_operator(operator: str) -> None:
    schema = onnx.defs.get_schema(operator)
    operands = ["x"] * max(1, schema.min_input)
    results = [f"y{index}" for index in range(schema.min_output)]
    found = lint(model(oh.make_node(operator, operands, results, name="culprit")))
    assert found == [Finding("culprit", operator, "TensorRT has no such operator")]


@pytest.mark.parametrize("case", [*REFUSED, *ACCEPTED])
def test_the_parser_agrees(case: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    from networks.tensorrt_rtx import build_engine

    graph = {**REFUSED, **ACCEPTED}[case].SerializeToString()
    complaint = build_engine(graph, sizes=(16, 32, 64)).complaint
    refused = case in REFUSED and case not in STRICTER_THAN_THE_PARSER
    assert (complaint is not None) == refused, complaint


def test_the_parsers_own_list_of_operators() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    standard = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
    unknown = {operator for operator in standard if not parser.supports_operator(operator)}
    assert unknown == set(UNSUPPORTED)
