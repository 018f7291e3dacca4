"""A classifier in the shape of the large ones, quick to export."""

from __future__ import annotations

import torch


class SmallNet(torch.nn.Module):
    """A classifier in the shape of the large ones, quick to export: 5 classes, stride 8."""

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        nn = torch.nn
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.ReLU6(inplace=True),
            nn.Conv2d(12, 16, 3, padding=1),
            nn.ReLU(),
        )
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


def lively_net() -> torch.nn.Module:
    """Return a SmallNet whose logits differ from image to image."""
    net = small_net()
    with torch.no_grad():
        for number in (0, 4, 6):
            net.features[number].weight.mul_(3)
    return net
