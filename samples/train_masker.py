"""Train a masker for a classifier of one's own, export both as one file, and explain with it.

The photos are made up: a coloured square somewhere on noise, the colour is the class. The
classifier learns them in seconds, the masker then learns to find the square without ever being
told where it is.

    python samples/train_masker.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from klieg import Explainer
from klieg.export import export_classifier
from klieg.training import options_from_table, train

SIZE, COLOURS = 48, np.array([(230, 40, 40), (40, 200, 60), (50, 80, 240)], dtype=np.uint8)
MEAN = STD = (0.5, 0.5, 0.5)


def photo(label: int, seed: int) -> tuple[NDArray[np.uint8], tuple[slice, slice]]:
    """Return a photo [H, W, 3] RGB and where its square is."""
    generator = np.random.default_rng([label, seed])
    picture = generator.integers(60, 180, (SIZE, SIZE, 3), dtype=np.uint8)
    top, left = generator.integers(4, SIZE - 24, 2)
    place = slice(top, top + 20), slice(left, left + 20)
    picture[place] = COLOURS[label]
    return picture, place


def build_classifier() -> torch.nn.Module:
    """Return a small network with two feature maps of different size."""
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, len(COLOURS)),
    )


def train_classifier(network: torch.nn.Module) -> None:
    """Teach the network the colours."""
    pairs = [(photo(label, seed)[0], label) for seed in range(64) for label in range(len(COLOURS))]
    images = torch.from_numpy(np.stack([picture for picture, _ in pairs])).permute(0, 3, 1, 2)
    normalised, labels = images / 255 * 2 - 1, torch.tensor([label for _, label in pairs])
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(network(normalised), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1, f"the classifier did not learn: {loss:.2f}"


def main(folder: Path) -> None:
    """Do all of it in a folder."""
    for label in range(len(COLOURS)):
        (folder / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        for seed in range(64):
            picture = cv2.cvtColor(photo(label, seed)[0], cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / "photos" / str(label) / f"{seed}.png"), picture)
    network = build_classifier()
    train_classifier(network)
    options = options_from_table(
        {
            "preset": "simplified-ca",
            "mean": MEAN,
            "std": STD,
            "data": {"path": str(folder / "photos"), "image_size": SIZE, "smallest_crop": 0.6},
            "masker": {"taps": ["1", "3"], "channels": 16},
            "critics": {"taps": "frozen"},
            "objective": {"size_out": 4.0},
            "optimiser": {"epochs": 12, "batch_size": 32, "share_per_epoch": 1.0},
        }
    )
    trained = train(options, folder / "run", classifier=network, accelerator="cpu")
    export_classifier(
        network,
        folder / "explainer.onnx",
        input_size=SIZE,
        mean=MEAN,
        std=STD,
        masker=trained.masker,
        masker_name="sample",
    )
    with Explainer(folder / "explainer.onnx") as explainer:
        pairs = [photo(label, seed) for label in range(len(COLOURS)) for seed in range(1000, 1008)]
        explanation = explainer.explain([picture for picture, _ in pairs], method="casm")
    found = zip(explanation.maps, pairs, strict=True)
    inside = np.mean([mask[place].mean() for mask, (_, place) in found])
    print(f"mean of the masks: {explanation.maps.mean():.2f}, inside the square: {inside:.2f}")
    assert inside > 2 * explanation.maps.mean(), "the masker did not find the square"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
