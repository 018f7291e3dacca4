"""Every sample runs and holds what it asserts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

SAMPLES = Path(__file__).parents[1] / "samples"
WITHOUT_ARGUMENTS = ("gradient_of_onnx.py", "own_model.py", "train_masker.py")


def run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, SAMPLES / name, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", WITHOUT_ARGUMENTS)
def test_sample(name: str) -> None:
    assert run(name)


def test_photos_and_explaining_one(lite0_explainer: Path, tmp_path: Path) -> None:
    run("sample_photos.py", tmp_path)
    out = run("explain_photo.py", lite0_explainer, tmp_path / "coffee.png", tmp_path / "out")
    assert "espresso" in out
    assert (tmp_path / "out" / "coffee.png").exists()


def test_comparing_methods(small_explainer_all: Path, tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), photo)
    run("compare_methods.py", small_explainer_all, tmp_path / "noise.png", tmp_path / "all.png")
    assert cv2.imread(str(tmp_path / "all.png")).shape[1] == 5 * 360


def test_scoring_localisation(small_explainer: Path, tmp_path: Path) -> None:
    """On the model's grid one object is the centre square, 22 x 22, the other a corner, 8 x 8."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    boxes, instances = ["file,name,xmin,ymin,xmax,ymax"], ["file,instance"]
    for name, (left, top, right, bottom) in (("a", (20, 10, 108, 54)), ("b", (0, 0, 32, 16))):
        photo = rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.jpg"), photo)
        mask = np.zeros((64, 128), np.uint8)
        mask[top:bottom, left:right] = 3
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), mask)
        boxes.append(f"{name}.jpg,thing,{left},{top},{right},{bottom}")
        instances.append(f"{name}.jpg,3")
    (tmp_path / "boxes.csv").write_text("\n".join(boxes) + "\n")
    (tmp_path / "instances.csv").write_text("\n".join(instances) + "\n")
    lines = run(
        "score_localisation.py", small_explainer, tmp_path, "--method", "cam", "--rule", "quantile"
    ).splitlines()
    scores = dict(line.split() for line in lines if line.startswith("  ") and "%" in line)
    assert scores["centre"] == "50.0%"
    assert scores["cam"] in ("0.0%", "50.0%", "100.0%")
    scores = dict(line.split() for line in lines if line.startswith("  ") and "%" not in line)
    recall = 493 / 548  # of all pixels on objects; the square meets 3 x 3 of the corner
    expected = 100 * (493 / 968 * recall + 548 / 2048 * (1 - recall))
    assert scores["centre"] == f"{expected:.1f}"
    assert 0 < float(scores["cam"]) < 100


def test_no_sample_is_forgotten() -> None:
    names = {path.name for path in SAMPLES.glob("*.py")}
    assert names == {
        *WITHOUT_ARGUMENTS,
        "sample_photos.py",
        "explain_photo.py",
        "compare_methods.py",
        "score_localisation.py",
    }
