"""Broken models: an error of klieg's own that names the trouble, never a crash, never zeros."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from helpers.mutations import FLOAT, INT64, classifier
from helpers.running import outputs
from klieg.errors import ExportError, GradientError, UnsupportedOperatorError
from klieg.export.autodiff import add_gradient

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("kind", "entry", "count"),
    [("graph", "add_gradient", 40), ("graph", "export", 30), ("bytes", "export", 60)],
)
def test_only_own_errors_escape(kind: str, entry: str, count: int) -> None:
    """Thousands were tried when this was written; each run repeats the first ones."""
    worker = subprocess.run(
        [sys.executable, "-m", "helpers.fuzz_worker", kind, entry, "0", str(count)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == 0, worker.stderr[-2000:]
    assert worker.stdout == ""


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def _wrong_rank(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[3]


def _cycle(model: onnx.ModelProto) -> None:
    node(model, "conv1").input[0] = "sum"


def _missing_initializer(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0]


def _wrong_type(model: onnx.ModelProto) -> None:
    w1 = model.graph.initializer[0]
    w1.CopyFrom(onnx.numpy_helper.from_array(np.ones((6, 3, 3, 3), np.int32), "w1"))


def _short_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"1234"


def _negative_size(model: onnx.ModelProto) -> None:
    """The pool behind a Slice makes ONNX's own shape inference abort the process."""
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 4
    del node(model, "pool").attribute[:]
    node(model, "pool").attribute.append(oh.make_attribute("kernel_shape", [9, 9]))
    node(model, "slice").input[0] = "p1"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "spatial"))
    node(model, "slice").input[3] = "spatial"


def _empty(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


def _no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def _no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def _old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 5


def _absurd_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 10**6


def _own_function_calls_itself(model: onnx.ModelProto) -> None:
    own = oh.make_opsetid("own", 1)
    call = oh.make_node("Again", ["x"], ["y"], domain="own")
    model.functions.append(oh.make_function("own", "Again", ["x"], ["y"], [call], [own]))
    model.opset_import.append(own)
    node(model, "relu").domain, node(model, "relu").op_type = "own", "Again"


def _name_is_no_text(model: onnx.ModelProto) -> None:
    data = model.SerializeToString().replace(b"classifier", b"\x81lassifier")
    model.ParseFromString(data)


BROKEN = [
    _wrong_rank,
    _cycle,
    _missing_initializer,
    _wrong_type,
    _short_weight,
    _negative_size,
    _empty,
    _no_nodes,
    _no_opset,
    _old_opset,
    _absurd_opset,
    _own_function_calls_itself,
    _name_is_no_text,
]


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_broken_model(change: Callable[[onnx.ModelProto], None]) -> None:
    model = classifier()
    change(model)
    with pytest.raises(GradientError):
        add_gradient(model, score="logits", wrt="image")


def headed(
    *nodes: onnx.NodeProto, outputs: tuple[str, ...] = (), **constants: np.ndarray
) -> onnx.ModelProto:
    """Return image [batch, 2, 4, 4] -> nodes -> maps -> logits [batch, 2]."""
    graph = oh.make_graph(
        [
            *nodes,
            oh.make_node("GlobalAveragePool", ["maps"], ["pooled"], name="gap"),
            oh.make_node("Flatten", ["pooled"], ["logits"], name="flatten"),
        ],
        "headed",
        [oh.make_tensor_value_info("image", FLOAT, ["batch", 2, 4, 4])],
        [
            oh.make_tensor_value_info("logits", FLOAT, ["batch", 2]),
            *(oh.make_tensor_value_info(name, INT64, None) for name in outputs),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)


POOL = oh.make_node(
    "MaxPool", ["image"], ["maps", "places"], name="pool", kernel_shape=[2, 2], strides=[2, 2]
)


def test_indices_of_a_pool_that_lead_nowhere_are_dropped() -> None:
    result = add_gradient(headed(POOL), score="logits", wrt="image")
    pools = [n for n in result.graph.node if n.op_type == "MaxPool"]
    assert [list(n.output) for n in pools] == [["maps"]], "TensorRT takes no indices"
    image = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    gradient = outputs(result, {"image": image, "target": np.array([0])})["gradient"]
    expected = np.zeros((1, 2, 4, 4))
    expected[:, 0, 1::2, 1::2] = 1 / 4
    np.testing.assert_array_equal(gradient, expected)


def test_unpooling_is_an_error() -> None:
    pool = oh.make_node(
        "MaxPool", ["image"], ["small", "places"], kernel_shape=[2, 2], strides=[2, 2]
    )
    unpool = oh.make_node(
        "MaxUnpool", ["small", "places"], ["maps"], name="un", kernel_shape=[2, 2], strides=[2, 2]
    )
    with pytest.raises(UnsupportedOperatorError, match=r"MaxUnpool.*'un'"):
        add_gradient(headed(pool, unpool), score="logits", wrt="image")


def test_scores_made_of_indices_are_an_error() -> None:
    pool = oh.make_node(
        "MaxPool", ["image"], ["small", "places"], kernel_shape=[2, 2], strides=[2, 2]
    )
    cast = oh.make_node("Cast", ["places"], ["maps"], to=FLOAT)
    with pytest.raises(GradientError, match="does not lead"):
        add_gradient(headed(pool, cast), score="logits", wrt="image")


@pytest.mark.parametrize("op_type", ["Floor", "Ceil", "Round", "Sign"])
def test_piecewise_constant_ways_are_an_error(op_type: str) -> None:
    with pytest.raises(GradientError, match="zero everywhere"):
        add_gradient(
            headed(oh.make_node(op_type, ["image"], ["maps"])), score="logits", wrt="image"
        )


def test_training_dropout_is_an_error() -> None:
    drop = oh.make_node("Dropout", ["image", "", "training"], ["maps"], name="drop")
    with pytest.raises(UnsupportedOperatorError, match="training mode"):
        add_gradient(headed(drop, training=np.array(True)), score="logits", wrt="image")


def test_loops_on_the_path_are_an_error() -> None:
    body = oh.make_graph(
        [oh.make_node("Relu", ["state"], ["next"]), oh.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            oh.make_tensor_value_info("step", INT64, []),
            oh.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("state", FLOAT, ["batch", 2, 4, 4]),
        ],
        [
            oh.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            oh.make_tensor_value_info("next", FLOAT, ["batch", 2, 4, 4]),
        ],
    )
    loop = oh.make_node("Loop", ["count", "", "image"], ["maps"], name="loop", body=body)
    with pytest.raises(UnsupportedOperatorError, match=r"Loop.*'loop'"):
        add_gradient(headed(loop, count=np.array(3)), score="logits", wrt="image")


def test_integer_score_is_an_error() -> None:
    model = headed(oh.make_node("Relu", ["image"], ["maps"]))
    model.graph.node.append(oh.make_node("Cast", ["logits"], ["whole"], to=INT64))
    model.graph.output.append(oh.make_tensor_value_info("whole", INT64, ["batch", 2]))
    with pytest.raises(GradientError, match="INT64"):
        add_gradient(model, score="whole", wrt="image")


def test_a_model_that_the_engine_refuses_is_an_export_error(tmp_path: Path) -> None:
    from klieg.export import export_classifier

    model = classifier()  # well-formed, but the weight of the head is too small
    w3 = next(t for t in model.graph.initializer if t.name == "w3")
    w3.CopyFrom(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w3"))
    with pytest.raises(ExportError):
        export_classifier(model, tmp_path / "x.onnx", input_size=16, mean=[0.5] * 3, std=[0.5] * 3)
    assert not list(tmp_path.iterdir())
