"""What the README shows works."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import click
import pytest

from klieg.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_python(small_explainer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(small_explainer, "explainer.onnx")
    Path("photo.jpg").write_bytes((files("skimage.data") / "rocket.jpg").read_bytes())
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert Path("results/photo.png").exists()


def test_commands_exist() -> None:
    lines = [line for block in blocks("") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("klieg ")]
    assert len(commands) >= 5
    for _, name, *arguments in commands:
        command = main.commands[name]
        command.make_parser(click.Context(command)).parse_args(arguments)  # unknown options raise


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("")), re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_links_and_pictures_exist() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
