"""torchvision's architectures with random weights: exported, compared, explained.

`export_classifier` itself compares logits, activation and gradient with torch autograd at two sizes
and two classes; here its measured errors are held to what float32 gives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from klieg import Explainer
from klieg.explainer_file import read_explainer
from klieg.export import export_classifier

# (architecture, its default layer, an earlier layer, input size)
NETWORKS = [
    ("resnet50", "layer4", "layer3.5", 96),
    ("vgg16", "features", "features.23", 96),
    ("densenet121", "features", "features.transition3", 96),
    ("inception_v3", "Mixed_7c", "Mixed_7a", 139),
    ("mobilenet_v2", "features", "features.17", 96),
    ("mobilenet_v3_large", "features", "features.13", 96),
    ("efficientnet_b0", "features", "features.6", 96),
]


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, **options).eval()
    # As initialised, activations shrink or grow by orders of magnitude per layer; statistics of
    # real images keep them near 1, as in a trained network.
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None
            part.train()
    with torch.no_grad():
        net(torch.randn(4, 3, 139, 139))
    return net.eval()


@pytest.mark.parametrize(("name", "default", "earlier", "size"), NETWORKS)
def test_network(name: str, default: str, earlier: str, size: int, tmp_path: Path) -> None:
    net = build(name)
    for layer in (None, earlier):
        report = export_classifier(
            net, tmp_path / "net.onnx", layer=layer, input_size=size,
            mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225],
        )  # fmt: skip
        assert report.layer == (layer or default)
        assert not report.fixed_size
        assert report.parity["logits"] < 1e-4
        assert report.parity["gradient"] < (1e-5 if layer is None else 1e-3)
    gradient = read_explainer(tmp_path / "net.onnx").facts.outputs["gradient"]
    assert gradient.shape[2:] == ("rows", "columns"), "the earlier layer's gradient varies in space"
    with Explainer(tmp_path / "net.onnx") as explainer:
        image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        result = explainer.explain(image, scales=[size, size + 50], target=1)
    assert np.isfinite(result.maps).all()
    assert not result.degenerate.any()
