"""What is built is what is in the folders."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CUDA = {".cu", ".cuh", ".fatbin"}
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]


def on_disk() -> set[str]:
    """Return the wheel's paths of all modules and data in the three folders."""
    found = set()
    for top, prefix in (("sdk", "klieg"), ("export", "klieg/export"), ("kernels", "klieg/kernels")):
        for path in (ROOT / top).rglob("*.py"):
            found.add(f"{prefix}/{path.relative_to(ROOT / top)}")
    maskers = ROOT / "sdk/training/maskers"
    data = {f"klieg/training/maskers/{path.name}" for path in maskers.iterdir() if path.is_file()}
    cuda = ROOT / "kernels/cuda"
    sources = {f"klieg/kernels/cuda/{path.name}" for path in cuda.iterdir() if path.suffix in CUDA}
    return found | data | sources | {"klieg/py.typed"}


def test_every_folder_is_listed() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert listed == set(FOLDERS)
    packages = {
        str(path.parent.relative_to(ROOT))
        for top in ("sdk", "export", "kernels")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert packages == set(FOLDERS.values())


def test_wheel_equals_disk(klieg_wheel: Path) -> None:
    with zipfile.ZipFile(klieg_wheel) as archive:
        names = {name for name in archive.namelist() if not name.split("/")[0].endswith("-info")}
    assert names == on_disk()


def test_every_constraint_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all("==" in pin for pin in pins)
