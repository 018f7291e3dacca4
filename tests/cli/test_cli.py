"""The command line, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import onnx
import onnx.helper
import pytest
from click.testing import CliRunner, Result

from klieg import Explainer
from klieg.cli import main
from klieg.cli.doctor import IDENTITY_MODEL
from klieg.results.lettering import GAP


def klieg(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like real ones: photos, a truncated one, another kind of file."""
    photos = tmp_path / "photos"
    photos.mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        photo = generator.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{number}.jpg"), photo)
    (photos / "broken.jpg").write_bytes((photos / "0.jpg").read_bytes()[:300])
    (photos / "notes.txt").write_text("not a photo")
    return photos


def commands() -> list[click.Command]:
    return list(main.commands.values())


def test_every_command_and_option_has_help() -> None:
    for command in commands():
        assert command.help, command.name
        assert command.short_help, command.name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in (
                "method",
                "repeat",
                "seed",
            ):
                assert parameter.help, f"{command.name} {parameter.name}"
        result = klieg(command.name, "--help")
        assert result.exit_code == 0
        assert max(map(len, result.output.splitlines())) <= 80


def test_help_imports_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys, klieg.cli; "
        "klieg.cli.main(['--help'], standalone_mode=False); "
        "bad = {'torch', 'onnxruntime', 'onnx', 'cv2'} & set(sys.modules); "
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_explain_folder_with_a_broken_photo(
    small_explainer: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = klieg("explain", small_explainer, folder, "-o", out, "--batch-size", 2)
    assert result.exit_code == 1
    assert "broken.jpg" in result.output
    assert "explained 3 of 4 photos" in result.output
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["0.jpg", "1.jpg", "2.jpg"]
    for number, line in enumerate(lines):
        assert line["name"] in ("ant", "bee", "cat", "dog", "eel")
        assert 0 < line["probability"] <= 1
        assert line["scales_used"][0] == 32
        assert line["seconds"] > 0
        assert line["method"] == "cameras"
        assert "views" not in line
        assert np.load(out / line["map"]).shape == (40 + number, 50)
        assert cv2.imread(str(out / line["overlay"])) is not None
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_explain_glob_and_options(small_explainer: Path, folder: Path, tmp_path: Path) -> None:
    result = klieg(
        "explain",
        small_explainer,
        folder / "[01].jpg",
        folder / "0.jpg",
        "-o",
        tmp_path / "out",
        "--method",
        "gradcam",
        "--target",
        "dog",
        "--fit",
        "letterbox",
        "--threads",
        1,
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(x) for x in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 2  # a file named twice is explained once
    assert {line["name"] for line in lines} == {"dog"}
    by_number = klieg(
        "explain",
        small_explainer,
        folder / "0.jpg",
        "-o",
        tmp_path / "out2",
        "--target",
        3,
        "--scales",
        "32,48",
    )
    assert by_number.exit_code == 0
    line = json.loads((tmp_path / "out2" / "results.jsonl").read_text())
    assert line["name"] == "dog"
    assert line["scales_used"] == [32, 48]


def test_explain_with_views(small_explainer: Path, folder: Path, tmp_path: Path) -> None:
    targets = ["dog", "ant"]  # nothing speaks for the ant
    with Explainer(small_explainer) as explainer:
        explanation = explainer.explain([folder / "0.jpg"], method="gradcam", target=[targets])
    assert explanation.degenerate.tolist() == [False, True]
    for rule in ("mean", "quantile"):
        out = tmp_path / rule
        result = klieg(
            "explain",
            small_explainer,
            folder / "0.jpg",
            "-o",
            out,
            "--method",
            "gradcam",
            "--target",
            targets[0],
            "--target",
            targets[1],
            "--views",
            "--binarise",
            rule,
        )
        assert result.exit_code == 0, result.output
        lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        assert [line["views"] for line in lines] == ["0-views.png", "0-2-views.png"]
        assert all(cv2.imread(str(out / line["views"])) is not None for line in lines)
        box = explanation.box_on_image(0, rule=rule).tolist()
        assert [line["box"] for line in lines] == [box, None]


def test_explain_by_several_methods(small_explainer: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = klieg(
        "explain",
        small_explainer,
        folder,
        "-o",
        out,
        "--method",
        "cameras",
        "--method",
        "gradcam",
        "--method",
        "rise",
        "--option",
        "masks=10",
        "--scales",
        "32,48",
        "--batch-size",
        2,
        "--target",
        "cat",
        "--target",
        "dog",
    )
    assert result.exit_code == 1
    assert result.output.count("broken.jpg") == 1
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    got = [(Path(line["file"]).name, line["name"], line["method"]) for line in lines]
    names, methods = ("0.jpg", "1.jpg", "2.jpg"), ("cameras", "gradcam", "rise")
    assert got == [(name, c, m) for name in names for c in ("cat", "dog") for m in methods]
    assert len({line["overlay"] for line in lines}) == len(lines)
    for line in lines:
        stem = line["comparison"].removesuffix(".png")
        assert line["overlay"] == f"{stem}-{line['method']}.png"
        assert line["scales_used"][0] == 32
        assert np.load(out / line["map"]).shape == (40 + int(Path(line["file"]).stem), 50)
        single = cv2.imread(str(out / line["overlay"]))
        beside = cv2.imread(str(out / line["comparison"]))
        assert beside.shape[1] == 3 * single.shape[1] + 2 * GAP
        column = methods.index(line["method"]) * (single.shape[1] + GAP)
        np.testing.assert_array_equal(beside[:, column : column + single.shape[1]], single)
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
    unknown = klieg(
        "explain",
        small_explainer,
        folder / "0.jpg",
        "-o",
        out,
        "--method",
        "cameras",
        "--method",
        "gradcam",
        "--option",
        "masks=10",
    )
    assert unknown.exit_code == 1
    assert "has no option 'masks'" in unknown.output


def test_explain_beside_a_method_without_classes(
    small_explainer_all: Path, folder: Path, tmp_path: Path
) -> None:
    common = ["explain", small_explainer_all, folder / "0.jpg", "-o", tmp_path / "out"]
    both = [*common, "--method", "gradcam", "--method", "casm"]
    predicted = klieg(*both)
    assert predicted.exit_code == 0, predicted.output
    asked = klieg(*both, "--target", "dog")
    assert asked.exit_code == 0, asked.output
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == ["gradcam", "casm"]
    assert json.loads(lines[0])["name"] == "dog"
    several = klieg(*both, "--target", "dog", "--target", "cat")
    assert several.exit_code == 2
    assert "ask for one --target" in several.output
    alone = klieg(*common, "--method", "casm", "--target", "dog")
    assert alone.exit_code == 1
    assert "does not depend on a class" in alone.output


def test_old_results_survive_a_failure(small_explainer: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert klieg("explain", small_explainer, folder / "0.jpg", "-o", out).exit_code == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    failed = klieg("explain", small_explainer, folder / "0.jpg", "-o", out, "--target", "cow")
    assert failed.exit_code == 1
    assert "no class is named 'cow'" in failed.output
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "missing.onnx", "x.jpg", "-o", "out"], "missing.onnx"),
        (["inspect", "missing.onnx"], "missing.onnx"),
        (["bench", "missing.onnx"], "missing.onnx"),
        (["export", "nothing", "-o", "x.onnx", "--mean", "0.5", "--std", "0.5"], "MODULE:FUNCTION"),
        (["export", "no.such:thing", "-o", "x.onnx", "--mean", "1", "--std", "1"], "no.such"),
        (["export", "model.onnx", "-o", "x.onnx"], "mean and std are needed"),
        (["export", "model.onnx", "-o", "x.onnx", "--mean", "a,b"], "'a,b'"),
    ],
)
def test_errors_are_one_line_without_traceback(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = klieg(*arguments)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_pattern_without_photos(small_explainer: Path, tmp_path: Path) -> None:
    result = klieg("explain", small_explainer, tmp_path / "*.jpg", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "names no photos" in result.output


def test_export_from_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncat\ndog\neel\n")
    result = klieg(
        "export",
        "helpers.small_net:small_net",
        "-o",
        tmp_path / "net.onnx",
        "--input-size",
        32,
        "--mean",
        "0.4,0.5,0.45",
        "--std",
        "0.2,0.25,0.3",
        "--class-names",
        names,
        "--methods",
        "saliency, excitation_backprop",
    )
    assert result.exit_code == 0, result.output
    assert "layer   features" in result.output
    assert "integrated_gradients, meaningful, extremal, excitation_backprop" in result.output
    assert "deconvnet" not in result.output
    assert "targets several" in result.output
    assert "parity" in result.output
    shown = klieg("inspect", tmp_path / "net.onnx", "--classes").output
    for text in ("features", "[batch, 3, height, width]", "opset 18", "4  eel", "any, made for 32"):
        assert text in shown


def test_export_needs_the_training_extra_for_a_masker_only(tmp_path: Path) -> None:
    code = "import sys; sys.modules['pydantic'] = None; from klieg.cli import main; main()"
    common = ["export", "helpers.small_net:small_net", "-o", str(tmp_path / "net.onnx")]
    common += ["--input-size", "32", "--mean", "0.4,0.5,0.45", "--std", "0.2,0.25,0.3"]
    tests = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    for more, returned, said in (
        (["--masker", "casm"], 1, "Error: a masker needs pydantic: pip install 'klieg[train]'"),
        ([], 0, "wrote"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *common, *more],
            env=tests,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == returned, done.stderr
        assert said in done.stdout + done.stderr


def test_bench(small_explainer: Path) -> None:
    result = klieg("bench", small_explainer, "--repeat", 1)
    assert result.exit_code == 0, result.output
    for text in ("CAMERAS, 8 scales", "fusion", "Grad-CAM", "over the bare passes", "MiB"):
        assert text in result.output


def test_bench_of_a_masking_model(small_explainer_all: Path) -> None:
    result = klieg("bench", small_explainer_all, "--repeat", 1)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("CASM") and line.endswith("x")]
    assert float(row.split()[-1][:-1]) > 0.5  # not faster than the bare pass, but for noise
    rates = lines[lines.index(next(li for li in lines if li.startswith("images per second"))) + 1 :]
    assert [line[:8].strip() for line in rates] == ["CASM", "Grad-CAM", "CAMERAS,"]
    assert all(float(number) > 0 for line in rates for number in line.split()[-2:])


def test_doctor() -> None:
    result = klieg("doctor")
    assert result.exit_code == 0, result.output
    assert "ok  ONNX Runtime CPUExecutionProvider" in result.output
    assert "TensorRT" in result.output


def test_doctors_model_is_what_it_says() -> None:
    model = onnx.load_from_string(IDENTITY_MODEL)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]
