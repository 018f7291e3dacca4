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
        capture_output=True,
        text=True,
        check=False,
    )
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


def test_comparing_step_counts(small_explainer: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "noise.png"), rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    output = run("compare_step_counts.py", small_explainer, tmp_path, "--counts", "2", "3")
    head, first, second = output.splitlines()
    assert head.split() == ["sizes", "2", "3"]
    assert first.split()[:2] == ["2", "0.0%"]
    assert first.split()[2] == second.split()[1] != "0.0%"


def test_no_sample_is_forgotten() -> None:
    names = {path.name for path in SAMPLES.glob("*.py")}
    assert names == {
        *WITHOUT_ARGUMENTS,
        "sample_photos.py",
        "explain_photo.py",
        "compare_methods.py",
        "compare_step_counts.py",
    }
