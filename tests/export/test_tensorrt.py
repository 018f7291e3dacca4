"""Explainer files through TensorRT's own parser and builder (its RTX edition needs no GPU).

Whole networks are built in test_networks.py, operators one by one in test_tensorrt_lint.py. A build
takes 1 to 16 s and up to 1.3 GiB on two idle cores, DenseNet-121 and ViT-B/16 most of all.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.helper as oh
import pytest

from klieg.export import export_classifier
from klieg.export.tensorrt_lint import lint
from small_masker import small_masker
from small_net import MEAN, STD, small_net

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

from klieg.export.tensorrt_rtx import build_engine


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


def test_a_refusal_is_told() -> None:
    kind = onnx.TensorProto.FLOAT
    graph = oh.make_graph(
        [oh.make_node("Det", ["x"], ["y"])],
        "refused",
        [oh.make_tensor_value_info("x", kind, ["batch", 4, 4])],
        [oh.make_tensor_value_info("y", kind, ["batch"])],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)
    complaint = build_engine(model.SerializeToString(), sizes=(4, 4, 4)).complaint
    assert complaint is not None
    assert "Det" in complaint
