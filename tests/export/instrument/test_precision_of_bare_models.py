"""Bare ONNX models in lower precision: what stays float32, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.helper as oh
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

from helpers.bare_models import convolutional, model
from helpers.mixed_precision import FEEDS, LOWER, UNIT, bare, typed
from helpers.running import outputs
from klieg.errors import OptionError
from klieg.export.instrument.precision import (
    HEAVY,
    PRECISIONS,
    backward_nodes,
    holds,
)
from klieg.export.parity.original import relative_error
from klieg.export.parity.precision import emulated


@pytest.mark.parametrize("number", [1e5, 1e-6])
def test_weights_that_float16_cannot_hold_stay_float32(tmp_path: Path, number: float) -> None:
    proto = convolutional()
    weight, bias = proto.graph.initializer[:2]
    large = numpy_helper.to_array(weight) * np.float32(number)
    weight.CopyFrom(numpy_helper.from_array(large, weight.name))
    bias.CopyFrom(numpy_helper.from_array(np.zeros(6, np.float32), bias.name))
    # The next layer takes the factor out again.
    undo = numpy_helper.from_array(np.float32(1 / number), "undo")
    proto.graph.initializer.append(undo)
    proto.graph.node[1].input[0] = "scaled"
    proto.graph.node.insert(1, oh.make_node("Mul", ["c", "undo"], ["scaled"]))
    for precision, held in (("float16", False), ("bfloat16", True)):
        explainer = bare(tmp_path, proto, precision=precision)
        tensors = {t.name: t for t in explainer.graph.initializer}
        assert (tensors["w1"].data_type == TensorProto.FLOAT) == (not held)
        assert tensors["w2"].data_type == PRECISIONS[precision]
        if not held:
            np.testing.assert_array_equal(numpy_helper.to_array(tensors["w1"]), large)


def test_what_a_precision_holds() -> None:
    half, brain = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
    random = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert holds(random, half)
    assert holds(random, brain)
    assert holds(np.where(np.arange(1000) < 500, random, 1e-9), half), "lost beside larger ones"
    assert not holds(random * 1e-6, half)
    assert holds(random * 1e-6, brain)
    assert holds(random * 1e-6, half, beside=1), "a bias beside its weights"
    for largest in (half, brain):
        assert not holds(np.array(-3.4e38), largest)
        assert holds(np.array([-np.inf, 0, 1]), largest)


def test_squares_and_wide_sums_stay_float32(tmp_path: Path) -> None:
    """A variance written out: in float16 the squares of 300 would be infinite."""
    proto = convolutional()
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    nodes = [
        oh.make_node("Conv", ["image", "w1", "b1"], ["c"], strides=[4, 4], pads=[1] * 4),
        oh.make_node("Relu", ["c"], ["r"]),
        oh.make_node("Mul", ["r", "far"], ["m"]),
        oh.make_node("Mul", ["m", "m"], ["square"]),
        oh.make_node("ReduceMean", ["square", "axes"], ["variance"], keepdims=0),
        oh.make_node("Sqrt", ["variance"], ["f"]),
        oh.make_node("Gemm", ["f", "w2", "b2"], ["logits"]),
    ]
    weights |= {"far": np.float32(800), "axes": np.array([2, 3]), "w2": weights["w2"] / 800}
    proto = model(nodes, {"image": ["n", 3, "h", "w"]}, {"logits": ["n", 4]}, weights)
    explainer = bare(tmp_path, proto, precision="float16", layer="r")
    types = {value.name: value.dtype for node in typed(explainer) for value in node.outputs}
    assert types["m"] == ir.DataType.FLOAT16
    assert types["square"] == types["variance"] == ir.DataType.FLOAT
    assert np.isfinite(outputs(emulated(explainer), FEEDS)["logits"]).all()


@pytest.mark.parametrize("precision", LOWER)
def test_a_float16_model_is_typed_anew(tmp_path: Path, precision: str) -> None:
    """Its gradients were float16 as well, now they are float32."""
    proto = convolutional()
    halves = {t.name: numpy_helper.to_array(t).astype(np.float16) for t in proto.graph.initializer}
    half = model(
        list(proto.graph.node),
        {"image": ["n", 3, "h", "w"]},
        {"logits": ["n", 4]},
        halves,
        TensorProto.FLOAT16,
    )
    truth = outputs(bare(tmp_path, proto), FEEDS)
    explainer = bare(tmp_path, half, precision=precision)
    graph = typed(explainer)
    for node in graph:
        if node.op_type in HEAVY:
            expected = "float32" if node in backward_nodes(graph) else precision
            assert node.outputs[0].dtype == PRECISIONS[expected]
    for name, value in outputs(emulated(explainer), FEEDS).items():
        assert relative_error(value, truth[name]) < 4 * UNIT[precision]


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    proto = convolutional()
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    zero = numpy_helper.from_array(np.uint8(0), "zero")
    proto.graph.initializer.extend([scale, zero])
    proto.graph.node[2].input[0] = "d"
    proto.graph.node.insert(2, oh.make_node("QuantizeLinear", ["r", "scale", "zero"], ["q"]))
    proto.graph.node.insert(3, oh.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]))
    with pytest.raises(OptionError, match=r"quantised .*precision='float16'"):
        bare(tmp_path, proto, precision="float16")
    assert not list(tmp_path.iterdir())


def test_unknown_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'float8', expected one of float32, float16, bfloat16"):
        bare(tmp_path, convolutional(), precision="float8")
