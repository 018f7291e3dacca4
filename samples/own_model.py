"""Export a torch classifier of one's own and explain a batch of arrays with it.

python samples/own_model.py

Needs: pip install 'klieg[cpu,export]'
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from klieg import Explainer
from klieg.export import export_classifier


def build() -> torch.nn.Module:
    """Return a small untrained classifier of three classes."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    )


def main() -> None:
    """Export, explain, check."""
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.onnx"
        report = export_classifier(
            build(),
            path,
            input_size=64,
            mean=[0.5, 0.5, 0.5],
            std=[0.25, 0.25, 0.25],
            class_names=["circle", "square", "triangle"],
        )
        print(f"layer {report.layer}, relative error {max(report.parity.values()):.0e}")
        with Explainer(path) as explainer:
            explanation = explainer.explain(images, target="square", scales=[64, 96, 128])
    assert explanation.maps.shape == (5, 64, 64)
    assert set(explanation.targets.tolist()) == {1}
    assert explanation.scales_used.all()
    print(f"maps {explanation.maps.shape}, class {explanation.class_name(1)}")


if __name__ == "__main__":
    main()
