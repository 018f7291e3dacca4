"""The maskers that come with the package fit the classifier that they were trained for."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import klieg.training.maskers
from klieg import Explainer
from klieg.errors import OptionError
from klieg.export import export_classifier
from klieg.export.classifiers.sources import Source
from klieg.export.classifiers.weights import weights_sha256
from klieg.images.fitting import fit_image
from klieg.training import read_options
from klieg.training.maskers import open_masker, shipped_maskers
from klieg.training.model.taps import TappedClassifier
from klieg.training.settings.configuration import table_of

FOLDER = Path(klieg.training.maskers.__file__).parent
NAMES = ["casm", "simplified-ca", "simplified-fix"]


def test_names() -> None:
    assert shipped_maskers() == NAMES
    with pytest.raises(OptionError, match="simplified-ca"):
        open_masker("simplfied")


@pytest.mark.parametrize("name", NAMES)
def test_a_masker_is_small_and_fits_its_classifier(name: str, lite0: Source) -> None:
    trained = open_masker(name)
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 2_000_000
    assert trained.classifier_sha256 == weights_sha256(lite0.model)
    assert trained.deployed(lite0.model) is lite0.model


@pytest.mark.parametrize("name", NAMES)
def test_a_masker_comes_with_its_run(name: str) -> None:
    options = read_options(FOLDER / f"{name}.toml")
    there = table_of(open_masker(name).options)
    assert table_of(options) | {"data": None} == there | {"data": None}
    for table in ("log", "scores"):
        assert len((FOLDER / f"{name}-{table}.csv").read_text().splitlines()) > 2


def masks(
    module: torch.nn.Module, name: str, lite0: Source, photos: list[np.ndarray]
) -> np.ndarray:
    masker = open_masker(name).masker
    tapped = TappedClassifier(copy.deepcopy(module), masker.taps).eval()
    images = np.stack([fit_image(photo, 224, "crop")[0] for photo in photos]).transpose(0, 3, 1, 2)
    mean, std = (np.reshape(v, (1, 3, 1, 1)) * 255 for v in (lite0.mean, lite0.std))
    with torch.no_grad():
        _, activations = tapped(torch.from_numpy((images - mean) / std).float())
        return masker(activations, (224, 224))[:, 0].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_masks_depend_on_the_weights_of_the_classifier(
    name: str, lite0: Source, photos: list[np.ndarray]
) -> None:
    truth = masks(lite0.model, name, lite0, photos)
    randomised = copy.deepcopy(lite0.model)  # in a layer before all that the maskers read
    torch.manual_seed(0)
    for part in randomised._blocks[0].modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)
    changed = masks(randomised, name, lite0, photos)
    similarity = [spearmanr(a.ravel(), b.ravel())[0] for a, b in zip(truth, changed, strict=True)]
    assert np.mean(similarity) < 0.5


def test_the_deployed_file_masks_like_torch(
    lite0: Source, photos: list[np.ndarray], tmp_path: Path
) -> None:
    export_classifier(
        lite0.model,
        tmp_path / "ca.onnx",
        mean=lite0.mean,
        std=lite0.std,
        masker=open_masker("simplified-ca").masker,
        masker_name="simplified-ca",
    )
    with Explainer(tmp_path / "ca.onnx") as explainer:
        maps = explainer.explain(photos, method="casm").maps
    # Float32 in two engines: 1e-5 at a sigmoid's steepest point is a few roundings of a logit.
    np.testing.assert_allclose(maps, masks(lite0.model, "simplified-ca", lite0, photos), atol=1e-4)
