"""Fixtures that several folders share."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from klieg.export import export_classifier
from klieg.export.sources import Source, open_source
from klieg.images.decoding import read_image

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")


class SmallNet(torch.nn.Module):
    """A classifier in the shape of the large ones, quick to export: 5 classes, stride 8."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        nn = torch.nn
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU6(inplace=True),
            nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1 if pooled else 3)
        self.head = nn.Linear(16 * (1 if pooled else 9), 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.pool(self.features(images)), 1))


MEAN, STD = [0.4, 0.5, 0.45], [0.2, 0.25, 0.3]
NAMES = ["ant", "bee", "cat", "dog", "eel"]


def small_net(*, pooled: bool = True) -> torch.nn.Module:
    """Return a SmallNet with fixed random weights."""
    torch.manual_seed(0)
    return SmallNet(pooled).eval()


@pytest.fixture(scope="session")
def small_explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explainer file of a SmallNet for 32 x 32 pixels."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    export_classifier(
        small_net(), path, input_size=32, mean=MEAN, std=STD, class_names=NAMES
    )
    return path


@pytest.fixture(scope="session")
def lite0() -> Source:
    """EfficientNet-Lite0 with its real weights."""
    return open_source("efficientnet-lite0", input_size=None, mean=None, std=None, class_names=None)


@pytest.fixture(scope="session")
def lite0_explainer(lite0: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explainer file of EfficientNet-Lite0 at its default layer."""
    path = tmp_path_factory.mktemp("lite0") / "lite0.onnx"
    export_classifier(
        lite0.model, path, mean=lite0.mean, std=lite0.std, class_names=lite0.class_names
    )
    return path


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Four photos of different sizes [H, W, 3] uint8."""
    return [read_image(str(files("skimage.data") / name)) for name in PHOTOS]
