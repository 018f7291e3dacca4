"""What a run learns, and from what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.csv_files import csv_numbers
from helpers.toy_training import (
    SQUARE,
    ColourNet,
    photo,
    toy_options,
    toy_run,
    write_photo,
    write_photos,
)
from klieg.errors import DataError
from klieg.training.model.taps import TappedClassifier
from klieg.training.model.tensors import read_tensors


def flat(root: Path) -> Path:
    for number in range(20):
        write_photo(root / f"{number:02}.png", photo(number % 5, number))
    return root


def test_predicted_labels_need_no_others(tmp_path: Path) -> None:
    """One folder of photos, and the same photos under labels that are wrong."""
    wrong = tmp_path / "wrong"
    for number in range(20):
        write_photo(wrong / str(number // 10) / f"{number:02}.png", photo(number % 5, number))
    results = []
    for name, data in (("flat", flat(tmp_path / "flat")), ("wrong", wrong)):
        options = toy_options(
            data, data={"labels": "predicted"}, objective={"out_classification": 1}
        )
        toy_run(options, tmp_path / "runs" / name)
        results.append(
            [(tmp_path / "runs" / name / file).read_bytes() for file in ("log.csv", "scores.csv")]
        )
    assert results[0] == results[1]
    with pytest.raises(DataError):
        toy_run(toy_options(tmp_path / "flat"), tmp_path / "runs" / "given")


def test_unreadable_photos_can_be_skipped_everywhere(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "photos", per_class=4)
    for path in (data / "c0").iterdir():
        path.write_bytes(b"\x89PNG\r\n\x1a\n no more")
    with pytest.raises(DataError, match=r"data\.unreadable"):
        toy_run(toy_options(data), tmp_path / "strict")
    options = toy_options(
        data, data={"unreadable": "skip", "held_out": 0.5}, optimiser={"batch_size": 10}
    )
    toy_run(options, tmp_path / "skipping")
    assert len(csv_numbers(tmp_path / "skipping" / "scores.csv")) == 2


def test_averaged_weights_are_the_mean_of_the_run(squares: Path, tmp_path: Path) -> None:
    """The average of two steps: 0.75 of the weights after the first, 0.25 of those after both."""
    two = {"epochs": 1, "batch_size": 8}  # 16 photos
    plain, averaged = (
        toy_run(toy_options(squares, optimiser={**two, "averaging": a}), tmp_path / str(a))
        for a in (0, 0.75)
    )
    last = dict(plain.masker.named_parameters())
    toy_run(toy_options(squares, optimiser=two, checkpoint_every=1), tmp_path / "one")
    first = tmp_path / "one" / "checkpoints" / "step-00000001.safetensors"
    after_one = read_tensors(first, kind="checkpoint")
    for name, parameter in averaged.masker.named_parameters():
        expected = 0.75 * after_one.tensors[f"masker/{name}"] + 0.25 * last[name].detach()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


def test_learning_finds_the_squares(tmp_path: Path) -> None:
    """A classifier that sees colours, forty steps: the mask is the square."""
    data = write_photos(tmp_path / "photos", per_class=8, same_size=True)
    options = toy_options(
        data,
        mean=[0, 0, 0],
        std=[1, 1, 1],
        checkpoint_every=1000,
        look_every=1000,
        data={"held_out": 0, "smallest_crop": 0.6},
        objective={"size_out": 5, "variation": 0},
        masker={"taps": ["fine", "coarse"], "channels": 16},
        optimiser={"epochs": 8, "batch_size": 8, "learning_rate": 0.01},
    )
    net = ColourNet()
    trained = toy_run(options, tmp_path / "run", classifier=net)
    log = csv_numbers(tmp_path / "run" / "log.csv")
    loss = [sum(v for k, v in row.items() if k not in ("step", "mask")) for row in log]
    assert np.mean(loss[-5:]) < np.mean(loss[:5]) - 0.5
    for label in range(5):
        image = photo(label, 99)[:, 8:48]  # [40, 40, 3]
        batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            _, activations = TappedClassifier(net, ("fine", "coarse"))(batch)
            mask = trained.masker(activations, (40, 40))[0, 0].numpy()
        inside = np.zeros((40, 40), bool)
        inside[SQUARE[0], 12:28] = True
        assert mask[inside].mean() > mask[~inside].mean() + 0.4
