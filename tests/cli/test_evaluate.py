"""klieg evaluate and klieg sanity, as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from helpers.csv_files import csv_rows
from klieg.cli import main
from klieg.evaluation.baselines import BASELINES


def klieg(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four photos with boxes; one is broken, one box lies outside, one category is unknown."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [("file", "name", "xmin", "ymin", "xmax", "ymax")]
    for number in range(4):
        photo = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"images/{number}.png"), photo)
        rows.append((f"{number}.png", ["ant", "bee", "yeti", "cat"][number], 5, 5, 20, 25))
    (folder / "images/3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows.append(("0.png", "ant", 60, 5, 70, 9))
    rows.append(("9.png", "ant", 5, 5, 9, 9))
    with (folder / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def test_evaluate_says_what_it_did_and_what_was_wrong(
    small_explainer: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [
        "evaluate",
        small_explainer,
        data,
        "-o",
        out,
        "--methods",
        "gradcam,cameras",
        "--scales",
        "32,48",
        "--metrics",
        "pointing,localisation_error",
    ]
    result = klieg(*command)
    assert result.exit_code == 0, result.output
    assert "scored 2 questions on 2 photos" in result.output
    for problem in (
        "1 x annotation without image",
        "1 x unreadable image",
        "1 x box outside the picture",
        "1 x unknown category",
    ):
        assert problem in result.output
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["scores"]) == ["gradcam", "cameras", *BASELINES]
    assert summary["configuration"]["scales"] == [32, 48]
    text = (out / "summary.md").read_text()
    assert "| `cameras` |" in text
    assert "Localisation error ↓" in text
    before = (out / "scores.csv").read_bytes()
    assert klieg(*command).exit_code == 0  # nothing is left to do
    assert (out / "scores.csv").read_bytes() == before
    other = klieg(*command[:-1], "pointing")
    assert other.exit_code == 1
    assert "holds an evaluation with other metrics" in other.output


def test_a_mapping_says_which_classes_are_meant(
    small_explainer: Path, data: Path, tmp_path: Path
) -> None:
    mapping = tmp_path / "classes.json"
    mapping.write_text(json.dumps({"yeti": ["cat", "dog"]}))
    arguments = [
        "evaluate",
        small_explainer,
        data,
        "-o",
        tmp_path / "out",
        "--methods",
        "cam",
        "--metrics",
        "pointing",
        "--classes",
        mapping,
    ]
    result = klieg(*arguments)
    assert result.exit_code == 0, result.output
    assert "scored 1 questions" in result.output
    mapping.write_text(json.dumps({"yeti": "dodo"}))
    failed = klieg(*arguments)
    assert failed.exit_code == 1
    assert "category 'yeti': no class is named 'dodo'" in failed.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "lime"], "unknown method 'lime'"),
        (["--metrics", "iou"], "unknown metric 'iou'"),
        (["--layout", "coco"], "needs annotations"),
        (["--split", "val"], "'folder' has no such option"),
        (["--methods", "saliency"], "`--methods saliency`"),
    ],
)
def test_evaluate_refuses(
    small_explainer: Path, data: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = klieg("evaluate", small_explainer, data, "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_sanity_prints_a_table(small_explainer_all: Path, data: Path, tmp_path: Path) -> None:
    (data / "images/3.png").unlink()
    result = klieg(
        "sanity",
        small_explainer_all,
        data / "images",
        "-o",
        tmp_path / "out",
        "--methods",
        "gradcam,guided_backprop,casm",
        "--groups",
        "2",
        "--similarities",
        "spearman,ssim",
    )
    assert result.exit_code == 0, result.output
    assert "| drawn anew | `gradcam` | `guided_backprop` | `casm` |" in result.output
    rows = csv_rows(tmp_path / "out/randomisation.csv")
    assert [row["method"] for row in rows] == ["gradcam"] * 2 + ["guided_backprop"] * 2 + [
        "casm"
    ] * 2
    assert all(-1 <= float(row["spearman"]) <= 1 for row in rows if row["spearman"] != "nan")
    assert (tmp_path / "out/randomisation.png").stat().st_size > 1000
