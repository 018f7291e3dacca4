"""The runtime works without the workbench: held here, and by the lint rules in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

WORKBENCH = (
    "torch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "torchvision",
    "skimage",
    "scipy",
    "PIL",
    "lightning_fabric",
    "pydantic",
    "safetensors",
)

EXPLAIN = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {banned!r}:
            raise ImportError("the runtime must not import " + name)
sys.meta_path.insert(0, Wall())
import numpy as np
{extra}
from klieg import Explainer
with Explainer({path!r}) as explainer:
    photo = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    explainer.explain(photo).save({folder!r})
"""


def run(explainer: Path, folder: Path, extra: str = "") -> subprocess.CompletedProcess[str]:
    code = EXPLAIN.format(banned=WORKBENCH, path=str(explainer), folder=str(folder), extra=extra)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_explaining_needs_no_workbench(small_explainer: Path, tmp_path: Path) -> None:
    done = run(small_explainer, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0.png").exists()


def test_evaluating_needs_no_workbench(small_explainer: Path, tmp_path: Path) -> None:
    (tmp_path / "data/images").mkdir(parents=True)
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "data/images/a.png"), photo)
    (tmp_path / "data/boxes.csv").write_text("file,name,xmin,ymin,xmax,ymax\na.png,ant,3,3,20,20\n")
    code = (
        "import sys\n"
        "from klieg.cli import main\n"
        f"main(['evaluate', {str(small_explainer)!r}, {str(tmp_path / 'data')!r}, '-o', "
        f"{str(tmp_path / 'scores')!r}], standalone_mode=False)\n"
        "assert not {'torch', 'onnx', 'lightning_fabric'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores/summary.md").exists()


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_this_test_can_fail(small_explainer: Path, tmp_path: Path, package: str) -> None:
    done = run(small_explainer, tmp_path, f"import {package}")
    assert done.returncode != 0
    assert f"must not import {package}" in done.stderr


def test_import_is_light() -> None:
    code = (
        "import sys, klieg; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'cv2', 'onnxruntime', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_source_folder_cannot_be_imported_by_its_own_name() -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", "import sdk"], cwd=root, capture_output=True, text=True, check=False
    )
    assert "import klieg" in done.stderr
