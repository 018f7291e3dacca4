"""A file in bfloat16, which no engine on a processor computes: what the commands say of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from helpers.small_net import MEAN, STD, small_net
from klieg.cli import main
from klieg.export import export_classifier
from klieg.export.randomised.reinitialisation import layers, reinitialised


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bfloat16") / "net.onnx"
    export_classifier(small_net(), path, input_size=32, mean=MEAN, std=STD, precision="bfloat16")
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.zeros((40, 50, 3), np.uint8))
    return path


@pytest.mark.parametrize("command", ["explain", "evaluate", "bench", "sanity"])
def test_commands_that_compute_say_what_to_do(
    command: str, explainer: Path, photo: Path, tmp_path: Path
) -> None:
    more = {
        "explain": [photo, "-o", tmp_path / "out"],
        "evaluate": [tmp_path, "-o", tmp_path / "out", "--methods", "gradcam"],
        "bench": [],
        "sanity": [photo, "-o", tmp_path / "out", "--methods", "gradcam"],
    }
    arguments = [command, explainer, *more[command]]
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert error.startswith(f"Error: {explainer} computes in bfloat16, which ")
    assert "export the model with --precision float32 or float16" in error
    # Engines are built for weights that stay, so the sanity check has none to offer.
    assert ("TensorRT on a GPU" in error) is (command != "sanity")
    assert not (tmp_path / "out").exists()


def test_inspect_shows_the_precision(explainer: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(explainer)])
    assert result.exit_code == 0
    assert "bfloat16" in result.output.split("precision")[1].splitlines()[0]
    result = CliRunner().invoke(main, ["inspect", "--tensorrt", str(explainer)])
    assert result.exit_code == 0


def test_weights_can_be_drawn_anew(explainer: Path) -> None:
    """For whoever has an engine for the file: the test above is of klieg's own."""
    model = onnx.load(explainer)
    found = layers(model)
    assert [layer.name for layer in found] == ["head", "features.6", "features.4", "features.0"]
    drawn = reinitialised(model, found)
    changed = {weight.name for layer in found for weight in layer.weights}
    for before, after in zip(model.graph.initializer, drawn.graph.initializer, strict=True):
        assert after.data_type == before.data_type
        assert (after != before) is (before.name in changed)
