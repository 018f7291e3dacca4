"""Backward passes with other rule tables, against plain torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torchvision
from torch import nn

from helpers.plain_methods import excite, excite_contrast, folded, rectified_gradient
from helpers.small_net import small_net
from klieg.errors import GradientError, UnsupportedOperatorError
from klieg.export.classifiers.onnx_classifier import TensorNames, find_classifier
from klieg.export.classifiers.torch_classifier import TorchClassifier
from klieg.export.instrument.graph import instrument
from klieg.export.instrument.outputs import BACKWARD
from klieg.export.session import Session

CHANNELS = 3
TARGETS = [1, 3]


def computed(
    net: nn.Module, outputs: list[str], *, layer: str | None = None, size: int = 40
) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    """Return the outputs of an instrumented net for seeded images in 0..1, and the images."""
    original = TorchClassifier(
        net, layer=layer, input_size=size, mean=[0] * CHANNELS, std=[1] * CHANNELS
    )
    classifier = find_classifier(
        original.to_onnx(), names=TensorNames(layer="layer"), input_size=size, channels=CHANNELS
    )
    model = instrument(
        classifier, mean=[0] * CHANNELS, std=[1] * CHANNELS, outputs=outputs, several_targets=True
    )
    images = np.random.default_rng(0).uniform(0, 1, (2, CHANNELS, size, size)).astype(np.float32)
    names = ["activation", *outputs]
    session = Session(ir.to_proto(model).SerializeToString())
    values = session.run(names, {"image": images * 255, "target": np.array(TARGETS)})
    return dict(zip(names, values, strict=True)), torch.from_numpy(images)


def resnet18() -> nn.Module:
    return calibrated(torchvision.models.resnet18)


def vgg11() -> nn.Module:
    torch.manual_seed(0)
    net = torchvision.models.vgg11(weights=None)
    net.classifier[0] = nn.Linear(512 * 49, 64)  # as wide as the original takes minutes
    net.classifier[3], net.classifier[6] = nn.Linear(64, 64), nn.Linear(64, 10)
    return net.eval()


def calibrated(make: Any) -> nn.Module:
    """Return a network with random weights whose activations stay near 1, as in a trained one."""
    torch.manual_seed(0)
    net = make(weights=None)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, CHANNELS, 96, 96))
    return net.eval()


def relative(got: np.ndarray, truth: torch.Tensor) -> float:
    return float(np.linalg.norm(got - truth.detach().numpy()) / truth.norm())


@pytest.mark.parametrize("make", [small_net, resnet18, vgg11])
def test_guided_backpropagation_and_deconvnet(make: Any) -> None:
    net = make()
    got, images = computed(net, ["guided_gradient", "deconvnet_gradient"], size=64)
    for name, mask in (("guided_gradient", True), ("deconvnet_gradient", False)):
        truth = rectified_gradient(net, images, TARGETS, mask=mask)
        # float32: a Relu within rounding of 0 may fall on either side, in a few cells
        assert relative(got[name] * 255, truth) < (1e-5 if make is small_net else 1e-2)


def sequence(*, bias: bool = True) -> nn.Sequential:
    """Every kind of operator that excitation knows, one after another."""
    torch.manual_seed(1)
    parts = nn.Sequential(
        nn.Conv2d(CHANNELS, 8, 5, stride=2, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=bias),
        nn.ReLU6(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 16, bias=bias),
        nn.ReLU(),
        nn.Linear(16, 5, bias=bias),
    )
    return parts.eval()


@pytest.mark.parametrize("layer", [1, 3, 7])
def test_excitation_of_a_sequence(layer: int) -> None:
    net = sequence()
    got, images = computed(net, ["excitation", "contrast"], layer=str(layer))
    front, back = net[: layer + 1], net[layer + 1 :]
    p = excite(back, front(images), torch.eye(5)[TARGETS])
    assert relative(got["excitation"], p) < 1e-5
    p = excite_contrast(net[-1], net[:-1](images), TARGETS)
    p = excite(back[:-1], front(images), p)
    assert relative(got["contrast"], p) < 1e-4  # a difference of nearly equal numbers


@pytest.mark.parametrize("layer", ["layer4", "layer2"])
def test_excitation_of_resnet18(layer: str) -> None:
    net = resnet18()
    got, _ = computed(net, ["excitation", "contrast"], layer=layer, size=64)
    plain = folded(net)
    blocks = nn.Sequential(*plain.layer3, *plain.layer4)
    back = nn.Sequential(*(blocks if layer == "layer2" else []), plain.avgpool, nn.Flatten())
    x = torch.from_numpy(got["activation"])
    truth = excite(nn.Sequential(*back, plain.fc), x, torch.eye(1000)[TARGETS])
    assert relative(got["excitation"], truth) < 1e-4
    truth = excite(back, x, excite_contrast(plain.fc, back(x), TARGETS))
    assert relative(got["contrast"], truth) < 1e-3


@pytest.mark.parametrize("layer", ["1", "2", "4", "5", "7"])
def test_probabilities_are_conserved_without_bias(layer: str) -> None:
    got, _ = computed(sequence(bias=False), ["excitation", "contrast"], layer=layer)
    assert (got["excitation"] >= 0).all()
    np.testing.assert_allclose(got["excitation"].sum(axis=(1, 2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(got["contrast"].sum(axis=(1, 2, 3)), 0, atol=1e-5)
    assert np.abs(got["contrast"]).sum() > 0.01


class Branches(nn.Module):
    """Concatenation, residual, gate, scale and batch normalisation that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(CHANNELS, 8, 3, 2, bias=False), nn.ReLU())
        self.left, self.right = nn.Conv2d(8, 4, 1, bias=False), nn.Conv2d(8, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        joined = torch.cat([self.left(x).relu(), self.right(x).relu()], dim=1)
        y = (self.norm(joined) + x).relu()
        y = y * torch.sigmoid(self.gate(y.mean(dim=(2, 3))))[:, :, None, None]
        return self.head((0.5 * y).mean(dim=(2, 3)))


def test_excitation_through_branches() -> None:
    torch.manual_seed(0)
    net = Branches()
    got, _ = computed(net.eval(), ["excitation"], layer="stem")
    np.testing.assert_allclose(got["excitation"].sum(axis=(1, 2, 3)), 1, atol=1e-5)
    net.norm.weight.data.neg_()
    net.norm.bias.data.fill_(10)  # positive still, but nothing comes through that branch
    through, _ = computed(net, ["excitation"], layer="stem")
    assert (through["excitation"].sum(axis=(1, 2, 3)) < 0.999).all()


def test_excitation_without_a_rule() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(CHANNELS, 4, 3), nn.Linear(4, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.stem(images)
            return self.head((x * x.exp()).mean(dim=(2, 3)))

    with pytest.raises(UnsupportedOperatorError, match=r"'excitation'.*Exp"):
        computed(Product(), ["excitation"], layer="stem")


def test_contrast_needs_weights_behind_the_layer() -> None:
    net = nn.Sequential(nn.Conv2d(CHANNELS, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(GradientError, match="earlier layer"):
        computed(net, ["contrast"], layer="1")
    got, _ = computed(
        nn.Sequential(nn.Conv2d(CHANNELS, 4, 1), *net[:0], nn.ReLU(), nn.Conv2d(4, 5, 3), *net[1:]),
        ["contrast"],
        layer="1",
    )
    np.testing.assert_allclose(got["contrast"].sum(axis=(1, 2, 3)), 0, atol=1e-5)


def test_backward_passes_share_their_first_steps() -> None:
    net, counts = small_net(), {}
    original = TorchClassifier(net, layer=None, input_size=32, mean=[0] * 3, std=[1] * 3)
    classifier = find_classifier(
        original.to_onnx(), names=TensorNames(layer="layer"), input_size=32, channels=3
    )
    for outputs in ([], *([name] for name in BACKWARD), list(BACKWARD)):
        model = instrument(classifier, mean=[0] * 3, std=[1] * 3, outputs=outputs)
        counts[tuple(outputs)] = model.graph.num_nodes()
        keys = [(n.op_type, tuple(map(id, n.inputs)), str(n.attributes)) for n in model.graph]
        assert len(keys) == len(set(keys))
    plain = counts[()]
    alone = sum(count - plain for outputs, count in counts.items() if len(outputs) == 1)
    assert counts[tuple(BACKWARD)] - plain < 0.8 * alone
