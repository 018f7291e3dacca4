"""Several targets per image in one pass: what is in front of the layer runs once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from helpers.running import noise, outputs
from helpers.small_net import MEAN, STD, small_net
from klieg.export import export_classifier
from klieg.export.classifiers.onnx_classifier import TensorNames, find_classifier
from klieg.export.classifiers.torch_classifier import TorchClassifier
from klieg.export.instrument.graph import instrument
from klieg.export.instrument.repeat import _Repeater
from klieg.export.parity import original as parity
from klieg.model_file.explainer_file import read_explainer

METHODS = ["saliency", "excitation_backprop", "contrastive_excitation"]
PER_TARGET = ["gradient", "excitation", "contrast"]
TARGETS = np.array([[0, 3, -1], [4, 1, 1]])  # [image, target]


class Residual(nn.Module):
    """The layer sits in one branch; the other one passes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.tail = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        return self.head(self.tail(self.branch(x) + x).mean(dim=(2, 3)))


class Shuffled(Residual):
    """Sizes of the image, batch included, pass the layer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.branch(self.stem(images))
        batch, channels, rows, columns = x.shape
        y = x.view(batch, 2, channels // 2, rows, columns).transpose(1, 2)
        return self.head((y.reshape(batch, channels, rows, columns) * x).mean(dim=(2, 3)))


def run(path: Path, targets: np.ndarray) -> dict[str, np.ndarray]:
    return outputs(path, {"image": noise(2), "target": targets})


def seeded(make: Any) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize(
    ("net", "layer"),
    [
        (small_net(), None),
        (small_net(), "features.3"),
        (small_net(pooled=False), None),  # its pool to a grid reads the size of the image
        (seeded(Residual), "branch"),
        (seeded(Shuffled), "stem"),
    ],
    ids=["default", "earlier", "grid", "residual", "shuffled"],
)
def test_as_if_asked_one_by_one(net: nn.Module, layer: str | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    methods = METHODS[:1] if isinstance(net, Shuffled) else METHODS  # a product of activations
    report = export_classifier(
        net, path, layer=layer, input_size=32, mean=MEAN, std=STD, methods=methods
    )
    assert report.several_targets
    assert read_explainer(path).several_targets
    together = run(path, TARGETS.ravel())
    alone = [run(path, targets) for targets in TARGETS.T]
    for name in ("logits", "activation"):
        np.testing.assert_array_equal(together[name], alone[0][name])
    total = sum(one["image_gradient"] for one in alone)
    np.testing.assert_allclose(together["image_gradient"], total, atol=1e-6 * np.abs(total).max())
    for name in set(PER_TARGET) & set(report.outputs):
        for number, one in enumerate(alone):
            rows = together[name].reshape(2, 3, *together[name].shape[1:])[:, number]
            np.testing.assert_allclose(rows, one[name], atol=1e-6 * np.abs(one[name]).max())
        assert not np.allclose(together[name][0], together[name][1])


def unnamed_batch(layer_branch: bool) -> onnx.ModelProto:
    """Return a bare ONNX model whose batch axis has no name."""
    text = f"""
        <ir_version: 8, opset_import: ["": 18]>
        net (float[?, 3, 32, 32] x) => (float[?, 5] y)
        <float[8, 3, 3, 3] w, float[8, 8, 1, 1] v, float[8, 5] h> {{
            a = Conv(x, w)
            r = Relu(a)
            b = Conv(r, v)
            s = Relu(b)
            t = Add(s, {"r" if layer_branch else "s"})
            p = GlobalAveragePool(t)
            f = Flatten(p)
            y = MatMul(f, h)
        }}"""
    model = onnx.parser.parse_model(text)
    generator = np.random.default_rng(0)
    for info in model.graph.value_info:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        value = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, info.name))
    return model


@pytest.mark.parametrize("crossing", [False, True])
def test_one_target_where_the_batch_cannot_be_told(crossing: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = export_classifier(
        unnamed_batch(crossing), path, layer="s", input_size=32, mean=MEAN, std=STD
    )
    assert report.several_targets is not crossing
    file = read_explainer(path)
    assert file.several_targets is not crossing
    assert file.facts.inputs["target"].shape == ("batch" if crossing else "targets",)
    assert run(path, TARGETS[:, 0])["gradient"].shape[:2] == (2, 8)


def in_wrong_order(passing: _Repeater, value: ir.Value) -> ir.Value:
    """Repeat all images, then all again, in place of each image."""
    op = passing.op
    count = op.Div(op.Shape(passing.target), op.Shape(passing.layer, start=0, end=1))
    shape = op.Concat(count, op.Shape(value), axis=0)
    expanded = op.Expand(value, shape)
    result = op.Reshape(expanded, op.Concat([-1], op.Shape(value, start=1), axis=0))
    result.shape = value.shape
    return result


def test_a_wrong_repeat_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Repeater, "repeated", in_wrong_order)
    net = small_net()
    original = TorchClassifier(net, layer="features.3", input_size=32, mean=MEAN, std=STD)
    classifier = find_classifier(
        original.to_onnx(), names=TensorNames(layer="layer"), input_size=32, channels=3
    )
    model = instrument(classifier, mean=MEAN, std=STD, several_targets=True)
    error = parity.of_several_targets(ir.to_proto(model), size=32, channels=3, classes=5)
    assert error > parity.KINK_LIMIT
    report = export_classifier(
        net, tmp_path / "net.onnx", layer="features.3", input_size=32, mean=MEAN, std=STD
    )
    assert not report.several_targets
