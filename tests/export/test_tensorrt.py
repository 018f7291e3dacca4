"""Explainer files through TensorRT's own parser and builder (its RTX edition needs no GPU).

Whole networks are built in test_networks.py, operators one by one in test_tensorrt_lint.py. A build
takes 1 to 16 s and up to 1.3 GiB on two idle cores, DenseNet-121 and ViT-B/16 most of all.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest

from helpers.small_masker import small_masker
from helpers.small_net import MEAN, STD, small_net
from klieg.backends.tensorrt.bindings import process_log
from klieg.export import export_classifier
from klieg.export.inspection.tensorrt_lint import lint
from networks.tensorrt_rtx import build_engine, parse

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


def check(path: Path, sizes: tuple[int, int, int]) -> None:
    built = build_engine(path.read_bytes(), sizes=sizes)
    assert built.complaint is None
    assert built.layers > 0
    assert built.seconds > 0
    assert built.engine_bytes > 10_000
    assert lint(onnx.load(path)) == []


@pytest.mark.parametrize("pooled", [True, False], ids=["global pool", "grid"])
@pytest.mark.parametrize("methods", [(), ("all",)], ids=["default", "all"])
def test_small_net(pooled: bool, methods: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    net = small_net(pooled=pooled)
    export_classifier(net, path, input_size=32, mean=MEAN, std=STD, methods=methods)
    check(path, (32, 48, 70))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("layer", [None, "features.3"])
def test_masking_model(mode: str, layer: str | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    masker = small_masker(mode=mode)
    export_classifier(
        small_net(), path, layer=layer, input_size=32, mean=MEAN, std=STD, masker=masker
    )
    check(path, (32, 48, 70))


def test_real_weights_at_every_size_of_cameras(lite0_explainer: Path) -> None:
    check(lite0_explainer, (224, 224, 924))


def test_one_size_only(lite0_explainer: Path) -> None:
    check(lite0_explainer, (224, 224, 224))


def small_graph(operator: str, name: str, *constants: onnx.TensorProto) -> bytes:
    """Return a model of one node on [batch, 4, 4]."""
    kind = onnx.TensorProto.FLOAT
    inputs = ["x", *(constant.name for constant in constants)]
    graph = oh.make_graph(
        [oh.make_node(operator, inputs, ["y"], name=name)],
        "small",
        [oh.make_tensor_value_info("x", kind, ["batch", 4, 4])],
        [oh.make_tensor_value_info("y", kind, None)],
        constants,
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def impossible(name: str) -> bytes:
    """Return a model that can be parsed, but not built: no batch has 3 x 5 numbers."""
    return small_graph("Reshape", name, onnx.numpy_helper.from_array(np.array([3, 5]), "shape"))


def test_a_refusal_is_told() -> None:
    complaint = build_engine(small_graph("Det", "node"), sizes=(4, 4, 4)).complaint
    assert complaint is not None
    assert "Det" in complaint


def test_each_call_tells_its_own_complaints() -> None:
    for name, other in (("<1>", "<2>"), ("<2>", "<1>")):
        complaint = build_engine(impossible(name), sizes=(4, 4, 4)).complaint
        assert complaint is not None
        assert f"IShuffleLayer {name}" in complaint
        assert other not in complaint
    assert "Det" in str(parse(small_graph("Det", "node")))
    assert "Failed to parse" in str(parse(b"no model"))
    assert parse(small_graph("Relu", "node")) is None


def test_calls_at_once_do_not_mix_their_complaints() -> None:
    names = [f"<{number}>" for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        built = pool.map(lambda name: build_engine(impossible(name), sizes=(4, 4, 4)), names)
    for name, one in zip(names, built, strict=True):
        complaint = str(one.complaint)
        assert f"IShuffleLayer {name}" in complaint
        assert complaint.count("IShuffleLayer") == 1


def test_tensorrt_is_given_one_logger_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    loggers = []

    def builder(logger: Any, made: Any = rtx.Builder) -> Any:
        loggers.append(logger)
        return made(logger)

    def parser(network: Any, logger: Any, made: Any = rtx.OnnxParser) -> Any:
        loggers.append(logger)
        return made(network, logger)

    monkeypatch.setattr(rtx, "Builder", builder)
    monkeypatch.setattr(rtx, "OnnxParser", parser)
    parse(small_graph("Relu", "node"))
    build_engine(small_graph("Relu", "node"), sizes=(4, 4, 4))
    assert len(loggers) == 4
    assert {id(logger) for logger in loggers} == {id(process_log(rtx).logger)}
