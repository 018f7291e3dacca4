"""Fixtures that several folders share."""

from __future__ import annotations

import functools
import gc
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry

from helpers.bare_models import traced
from helpers.small_masker import small_masker
from helpers.small_net import MEAN, NAMES, STD, small_net
from klieg.export import export_classifier
from klieg.export.classifiers.sources import Source, open_source
from klieg.images.formats import read_image

ROOT = Path(__file__).parents[1]
PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")


@pytest.fixture(scope="session", autouse=True)
def quick_exports() -> Iterator[None]:
    """Spare hundreds of exports what is the same in each, a fifth of their time.

    torch reads its table of operators from their sources at every export; and garbage collections,
    which the many objects of a trace set off, look at all that imports have made.
    """
    table = ONNXRegistry.from_torchlib.__func__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", classmethod(functools.cache(table)))
        gc.collect()
        gc.freeze()
        yield


@pytest.fixture(scope="session")
def klieg_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy: an older build folder must not leak into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for top in ("sdk", "export", "kernels"):
        shutil.copytree(ROOT / top, source / top, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and "setuptools" in built.stderr and "No matching" in built.stderr:
        pytest.skip(f"no package index to get the build backend from: {built.stderr[-200:]}")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def small_explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explainer file of a SmallNet for 32 x 32 pixels."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    export_classifier(small_net(), path, input_size=32, mean=MEAN, std=STD, class_names=NAMES)
    return path


@pytest.fixture(scope="session")
def small_explainer_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same SmallNet, exported for all methods, with a masking model."""
    path = tmp_path_factory.mktemp("small-all") / "small.onnx"
    export_classifier(
        small_net(),
        path,
        input_size=32,
        mean=MEAN,
        std=STD,
        class_names=NAMES,
        methods=["all"],
        masker=small_masker(),
        masker_name="a small one",
    )
    return path


@pytest.fixture(scope="session")
def lite0() -> Source:
    """EfficientNet-Lite0 with its real weights."""
    return open_source("efficientnet-lite0", input_size=None, mean=None, std=None, class_names=None)


@pytest.fixture(scope="session")
def lite0_explainer(lite0: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explainer file of EfficientNet-Lite0 at its default layer."""
    path = tmp_path_factory.mktemp("lite0") / "lite0.onnx"
    export_classifier(
        lite0.model, path, mean=lite0.mean, std=lite0.std, class_names=lite0.class_names
    )
    return path


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Four photos of different sizes [H, W, 3] uint8."""
    return [read_image(str(files("skimage.data") / name)) for name in PHOTOS]


@pytest.fixture(scope="module")
def bare() -> onnx.ModelProto:
    return traced(small_net())
