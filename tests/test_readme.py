"""What the README and the pages in docs/ show works."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import click
import pytest

from klieg.cli import main
from klieg.model_file.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, page: Path = ROOT / "README.md") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


def test_python(small_explainer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(small_explainer, "explainer.onnx")
    Path("photo.jpg").write_bytes((files("skimage.data") / "rocket.jpg").read_bytes())
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert Path("results/photo.png").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    lines = [line for block in blocks("", page) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("klieg ")]
    assert commands or page.name != "README.md"
    for _, name, *arguments in commands:
        command = main.commands[name]
        command.make_parser(click.Context(command)).parse_args(arguments)  # unknown options raise


def test_every_method_is_on_its_page_with_its_options() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, method in METHODS.items():
        (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        assert set(re.findall(r"`(\w+)`", row.split("|")[2])) - {"scales"} == set(method.options)


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("")), re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link
