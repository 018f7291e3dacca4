"""Photos whose class is the colour of a patch: what removes the patch removes all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from helpers.toy_training import COLOURS, write_photo
from klieg.training.data.photos import Photo

SIDE, PATCH, CLASSES, EACH = 32, 8, 3, 40
MEAN, STD = [0.25, 0.25, 0.25], [0.25, 0.25, 0.25]


def colour_net() -> nn.Module:
    """Return an untrained classifier of three colours."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


def linear_net() -> nn.Module:
    """Return one that is linear."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, CLASSES))


def write_patches(root: Path) -> Path:
    """Write dark noise, a bright patch of the class's colour somewhere on it: 6 % of the pixels."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        for number in range(EACH):
            image = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
            top, left = rng.integers(0, SIDE - PATCH, 2)
            image[top : top + PATCH, left : left + PATCH] = COLOURS[label]
            write_photo(root / str(label) / f"{number}.png", image)
    return root


def listed(root: Path) -> list[Photo]:
    """Return the photos with their labels."""
    return [Photo(file, int(file.parent.name)) for file in sorted(root.glob("*/*.png"))]
