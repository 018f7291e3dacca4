"""From a config file to masks of photos, on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from click.testing import CliRunner, Result

import klieg.training.sweep as sweep_module
from helpers.small_net import lively_net
from helpers.toy_training import AGNOSTIC, toy_options, write_photos
from klieg import Explainer
from klieg.cli import main
from klieg.export.classifiers.weights import weights_sha256
from klieg.training import load_masker
from klieg.training.settings.configuration import merged, table_of

SWEEP = """
[runs.large]
objective = { size_out = 0.5, size_in = 0.5 }

[runs.small]
objective = { size_out = 5.0 }
"""


def klieg(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config file for SmallNet and photos of squares."""
    photos = write_photos(tmp_path / "photos")
    return write_config(tmp_path / "config.toml", table_of(toy_options(photos)))


def write_config(path: Path, table: dict[str, object]) -> Path:
    given = merged(table, {"classifier": "helpers.small_net:lively_net"})
    path.write_text(tomli_w.dumps(given))
    return path


def test_from_config_to_masks(config: Path, tmp_path: Path) -> None:
    run, explainer = tmp_path / "run", tmp_path / "explainer.onnx"
    done = klieg("train", config, "-o", run, "--accelerator", "cpu")
    assert done.exit_code == 0, done.output
    masker = run / "masker.safetensors"
    assert f"wrote {masker}" in done.output
    done = klieg("export", "--masker", masker, "--input-size", 32, "-o", explainer)
    assert done.exit_code == 0, done.output
    assert "casm" in done.output
    photo = tmp_path / "photos" / "c0" / "0.png"
    done = klieg("explain", explainer, photo, "-o", tmp_path / "out", "--method", "casm", "--views")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "0-views.png").exists()
    shown = klieg("inspect", explainer)
    assert str(masker) in shown.output


def test_published_coupling_deploys_the_trained_classifier(config: Path, tmp_path: Path) -> None:
    options = toy_options(tmp_path / "photos", critics=AGNOSTIC)
    config = write_config(tmp_path / "coupled.toml", table_of(options))
    assert klieg("train", config, "-o", tmp_path / "run").exit_code == 0
    masker = tmp_path / "run" / "masker.safetensors"
    original = lively_net()
    deployed = load_masker(masker).deployed(original)
    assert weights_sha256(deployed) != weights_sha256(original)
    done = klieg("export", "--masker", masker, "--input-size", 32, "-o", tmp_path / "e.onnx")
    assert done.exit_code == 0, done.output
    with Explainer(tmp_path / "e.onnx") as explainer:
        assert explainer.info.source_sha256 == weights_sha256(deployed)


def test_another_classifier_is_refused(config: Path, tmp_path: Path) -> None:
    assert klieg("train", config, "-o", tmp_path / "run").exit_code == 0
    masker = tmp_path / "run" / "masker.safetensors"
    done = klieg(
        "export", "helpers.small_net:small_net", "--masker", masker, "-o", tmp_path / "e.onnx"
    )
    assert done.exit_code == 1
    assert "trained for a classifier with the digest" in done.output
    assert not (tmp_path / "e.onnx").exists()


def test_two_processes_share_the_batches(config: Path, tmp_path: Path) -> None:
    options = toy_options(tmp_path / "photos", optimiser={"batch_size": 8})
    config = write_config(tmp_path / "two.toml", table_of(options))
    call = [Path(sys.executable).with_name("klieg"), "train", config, "-o", tmp_path / "run"]
    done = subprocess.run(
        [*map(str, call), "--accelerator", "cpu", "--devices", "2"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(steps) == 1 + 4
    assert load_masker(tmp_path / "run" / "masker.safetensors").masker.taps


def test_sweep(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    call = ("train", config, "-o", tmp_path / "runs", "--sweep", tmp_path / "sweep.toml")
    done = klieg(*call)
    assert done.exit_code == 0, done.output
    results = (tmp_path / "runs" / "results.csv").read_text()
    assert [line.split(",")[0] for line in results.splitlines()] == ["run", "large", "small"]
    assert load_masker(tmp_path / "runs/small/masker.safetensors").options.objective.size_out == 5

    def again(*_: object, **__: object) -> None:
        raise AssertionError("what is done is not done again")

    monkeypatch.setattr(sweep_module, "train", again)
    assert klieg(*call).exit_code == 0
    assert (tmp_path / "runs" / "results.csv").read_text() == results


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no runs"),
        ("[runs]\na = 1\n", "has no runs"),
        ("[runs.a]\nepochs = 3\n", "run 'a': there is no option 'epochs'"),
        ("[runs", "cannot read"),
    ],
)
def test_bad_sweeps(config: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sweep.toml").write_text(text)
    done = klieg("train", config, "-o", tmp_path / "runs", "--sweep", tmp_path / "sweep.toml")
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "runs").exists()


def test_bad_arguments(tmp_path: Path) -> None:
    done = klieg("train", tmp_path / "none.toml", "-o", tmp_path)
    assert (done.exit_code, "cannot read" in done.output) == (1, True)
    done = klieg("export", "-o", tmp_path / "e.onnx")
    assert (done.exit_code, "Missing argument 'SOURCE'" in done.output) == (2, True)
    done = klieg("export", "--masker", "simplified", "-o", tmp_path / "e.onnx")
    assert (done.exit_code, "there is no masker 'simplified'" in done.output) == (1, True)
    done = klieg(
        "export",
        "model.onnx",
        "--masker",
        "simplified-fix",
        "--mean",
        "0,0,0",
        "--std",
        "1,1,1",
        "-o",
        tmp_path / "e.onnx",
    )
    assert (done.exit_code, "belongs to a torch module" in done.output) == (1, True)
    assert not np.any(list(tmp_path.glob("*.onnx")))
