"""Runs of a few seconds: photos of bright squares, classifiers that see them, runs that are killed.

A module of its own, as processes that are to be killed import it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from helpers.small_net import lively_net
from klieg.training import TrainedMasker, TrainingOptions, train
from klieg.training.checkpoint import Checkpoints
from klieg.training.log import Log
from klieg.training.model import tensors as tensor_files
from klieg.training.settings.configuration import merged, options_from_table

COLOURS = np.array(
    [[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250]], dtype=np.uint8
)
SQUARE = (slice(8, 24), slice(20, 36))
"""Where the square of a 40 x 56 photo is."""
SIZES = ((40, 56), (33, 35), (64, 48))

FIXED: dict[str, Any] = {"regime": "fixed"}
AGNOSTIC: dict[str, Any] = {
    "regime": "agnostic",
    "historic": 0.5,
    "pool_size": 2,
    "snapshot_every": 2,
    "taps": "trained",
}
ALL_TERMS = {
    "out_entropy": 1,
    "in_classification": 1,
    "size_out": 2,
    "size_in": 1,
    "variation": 0.001,
}


def photo(label: int, seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Return noise with a bright square of the class's colour [H, W, 3] uint8 RGB."""
    image = np.random.default_rng([label, seed]).integers(0, 60, (*size, 3), dtype=np.uint8)
    image[SQUARE] = COLOURS[label]
    return image


def write_photo(path: Path, image: np.ndarray) -> Path:
    """Write an RGB image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def write_photos(root: Path, *, per_class: int = 4, same_size: bool = False) -> Path:
    """Write photos of five classes, a folder each."""
    for label in range(len(COLOURS)):
        for number in range(per_class):
            size = SIZES[0 if same_size else number % len(SIZES)]
            suffix = "jpg" if number % 2 else "png"
            write_photo(root / f"c{label}" / f"{number}.{suffix}", photo(label, number, size))
    return root


def toy_options(photos: Path, /, **changes: Any) -> TrainingOptions:
    """Return options for ten steps on 20 photos, with a checkpoint every third."""
    base = {
        "mean": [0.4, 0.5, 0.45],
        "std": [0.2, 0.25, 0.3],
        "threads": 1,
        "checkpoint_every": 3,
        "look_every": 1,
        "data": {"path": str(photos), "image_size": 32, "held_out": 0.2},
        "objective": ALL_TERMS,
        "critics": FIXED,
        "optimiser": {"epochs": 2, "batch_size": 3},
    }
    return options_from_table(merged(base, changes))


def toy_run(options: TrainingOptions, folder: Path, **changes: Any) -> TrainedMasker:
    """Train on the processor."""
    classifier = changes.pop("classifier", None) or lively_net()
    return train(options, folder, classifier=classifier, accelerator="cpu", progress=False)


RESULTS = ("masker.safetensors", "log.csv", "scores.csv", "config.toml")


def assert_same_results(first: Path, second: Path) -> None:
    """Compare what two runs leave in their folders, byte by byte."""
    for name in RESULTS:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


class ColourNet(torch.nn.Module):
    """Answers which colour of `COLOURS` there is most of; photos come in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.fine = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AvgPool2d(4))
        self.coarse = nn.Sequential(nn.Conv2d(5, 5, 1), nn.AvgPool2d(2))
        wanted = torch.from_numpy(COLOURS > 0).float()  # [5, 3]
        weight = wanted / wanted.sum(dim=1, keepdim=True) - (1 - wanted)
        with torch.no_grad():
            self.fine[0].weight.copy_(weight[:, :, None, None])
            self.fine[0].bias.fill_(-0.5)
            self.coarse[0].weight.copy_(torch.eye(5)[:, :, None, None])
            self.coarse[0].bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 60 * self.coarse(self.fine(images)).mean(dim=(2, 3))


def killed_run(table: Mapping[str, Any], folder: Path, moment: str, number: int) -> None:
    """Train in this process and end it with SIGKILL.

    Args:
        table: The options.
        folder: Of the run.
        moment: "logged": after the line of step `number` in the log; "saved": after its checkpoint
            is there; "writing": in the middle of writing the number-th file of tensors.
        number: See `moment`.
    """

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    add, save, write = Log.add, Checkpoints.save, tensor_files.save_file
    written = 0

    def logged(self: Log, step: int, values: Mapping[str, float]) -> None:
        add(self, step, values)
        if moment == "logged" and step == number:
            kill()

    def saved(self: Checkpoints, step: int, state: Any) -> None:
        save(self, step, state)
        if moment == "saved" and step == number:
            kill()

    def writing(copies: Any, path: str, **rest: Any) -> None:
        nonlocal written
        written += 1
        write(copies, path, **rest)
        if moment == "writing" and written == number:
            os.truncate(path, 100)
            kill()

    Log.add, Checkpoints.save, tensor_files.save_file = logged, saved, writing  # type: ignore[method-assign]
    toy_run(options_from_table(table), folder)
