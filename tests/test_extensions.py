"""An engine, a method, a picture format and an output format of another package.

klieg and that package are installed as wheels, apart from the source folders: no file of klieg is
touched to add them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

EXTRAS = '''
"""One of each that klieg can be extended by."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klieg.backends.onnxruntime import OnnxRuntime
from klieg.images.formats import PictureFormat
from klieg.methods.class_activation import gradcam
from klieg.model_file.methods import LAYER, Method
from klieg.results.formats import Writer


def doubled_gradcam(passes, batch, sizes):
    """Twice Grad-CAM."""
    found = gradcam(passes, batch, sizes)
    return type(found)(2 * found.raw, found.logits, found.targets, found.scales_used)


DOUBLED = Method("Doubled", "extras:doubled_gradcam", LAYER)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """ONNX Runtime with one thread, which leaves a mark."""

    @contextmanager
    def opened(self, file):
        Path("traced").touch()
        with OnnxRuntime(threads=1).opened(file) as backend:
            yield backend


def read_ppm(name, data):
    """Decode a PPM file of 8 bits without comments."""
    _, width, height, _, pixels = data.split(maxsplit=4)
    return np.frombuffer(pixels, np.uint8).reshape(int(height), int(width), 3)


PPM = PictureFormat("PPM", (".ppm",), b"P6", read_ppm)
TEXT = Writer("text", ".txt", lambda result, path: path.write_text(f"{result.title}\\n"))
'''

PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "extras"
version = "1"
[tool.setuptools]
py-modules = ["extras"]
[project.entry-points."klieg.methods"]
doubled = "extras:DOUBLED"
[project.entry-points."klieg.backends"]
traced = "extras:Traced"
[project.entry-points."klieg.pictures"]
".ppm" = "extras:PPM"
[project.entry-points."klieg.formats"]
text = "extras:TEXT"
"""


@pytest.fixture(scope="module")
def installed(klieg_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages, from their wheels."""
    source, target = tmp_path_factory.mktemp("extras"), tmp_path_factory.mktemp("installed")
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "extras.py").write_text(EXTRAS)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--target", target, klieg_wheel, source),
        ],
        check=True,
    )
    return target


def run(installed: Path, folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_one_of_each_from_another_package(
    installed: Path, small_explainer: Path, tmp_path: Path
) -> None:
    where = run(installed, tmp_path, "-c", "import klieg; print(klieg.__file__)")
    assert where.stdout.startswith(str(installed)), where
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.ppm").write_bytes(b"P6 50 40 255 " + photo.tobytes())
    (tmp_path / "photos/notes.xyz").write_text("no photo")
    done = run(
        installed,
        tmp_path,
        "-c",
        "from klieg.cli import main; main()",
        "explain",
        small_explainer,
        "photos",
        "-o",
        "out",
        "--method",
        "doubled",
        "--method",
        "gradcam",
        "--backend",
        "traced",
        "--format",
        "npy",
        "--format",
        "text",
    )
    assert done.returncode == 0, done.stderr
    assert "explained 1 of 1 photos" in done.stdout  # the folder's listing knows the suffix
    records = [
        json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()
    ]
    assert [record["text"] for record in records] == ["a-doubled.txt", "a-gradcam.txt"]
    assert (tmp_path / "out/a-doubled.txt").read_text().startswith(records[0]["name"])
    doubled, plain = (np.load(tmp_path / "out" / record["map"]) for record in records)
    np.testing.assert_allclose(doubled, plain, atol=1e-6)  # scaled to its maximum, twice is once
    assert (tmp_path / "traced").exists()


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (("--method", "no"), "unknown method 'no', expected one of cameras, .*, doubled", 2),
        (("--backend", "no"), "unknown backend 'no', expected one of .*'traced'", 2),
        (("--format", "no"), "unknown format 'no', expected one of png, npy, views, text", 1),
        (("--backend", "traced", "--threads", "2"), "--backend traced takes no --threads", 1),
    ],
)
def test_unknown_names_list_what_is_installed(
    installed: Path,
    small_explainer: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
    code: int,
) -> None:
    done = run(
        installed,
        tmp_path,
        "-c",
        "from klieg.cli import main; main()",
        "explain",
        small_explainer,
        "a.png",
        "-o",
        "out",
        *options,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr.replace("\n", " ")), done.stderr
    assert not (tmp_path / "out").exists()


def test_methods_of_another_package_are_evaluated_and_tested(
    installed: Path, small_explainer: Path, tmp_path: Path
) -> None:
    (tmp_path / "data/images").mkdir(parents=True)
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "data/images/a.png"), photo)
    (tmp_path / "data/boxes.csv").write_text("file,name,xmin,ymin,xmax,ymax\na.png,ant,3,3,20,20\n")
    for command, what, more in (
        ("evaluate", "data", ()),
        ("sanity", "data/images", ("--similarities", "spearman")),
    ):
        done = run(
            installed,
            tmp_path,
            "-c",
            "from klieg.cli import main; main()",
            command,
            small_explainer,
            what,
            "-o",
            command,
            "--methods",
            "doubled,gradcam",
            *more,
        )
        assert done.returncode == 0, done.stderr
    found = (tmp_path / "evaluate/summary.md").read_text()
    assert "Doubled" in found or "doubled" in found
