"""CAMERAS maps of a real network against the published form in torch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from klieg import Explainer
from klieg.export import export_classifier
from klieg.export.classifiers.sources import Source
from klieg.export.classifiers.torch_classifier import TorchClassifier
from klieg.export.parity.published_cameras import PublishedResult, published_cameras
from klieg.images.fitting import fit_image
from klieg.methods.cameras import enlarge_images
from klieg.model_file.explainer_file import read_explainer

TOLERANCE = 1e-4
EARLIER_LAYER = "_blocks.15"  # before the last convolution: its gradient varies in space


@pytest.fixture(scope="module")
def earlier_explainer(lite0: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("earlier") / "earlier.onnx"
    export_classifier(lite0.model, path, layer=EARLIER_LAYER, mean=lite0.mean, std=lite0.std)
    return path


def published(
    source: Source, original: TorchClassifier, photo: np.ndarray, sizes: tuple[int, ...], dtype: Any
) -> PublishedResult:
    """Explain one photo with the published form in the given precision."""
    fitted, _ = fit_image(photo, sizes[0], "crop")
    image = torch.from_numpy(fitted.transpose(2, 0, 1)[None].copy()).to(dtype)
    mean, std = (torch.tensor(v, dtype=dtype).view(1, -1, 1, 1) for v in (source.mean, source.std))
    module = copy.deepcopy(original.module).to(dtype)
    return published_cameras(module, original.tap, (image / 255 - mean) / std, sizes)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """The order in which torch sums decides on which side of a kink its float32 falls."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("layer", [None, EARLIER_LAYER])
@pytest.mark.usefixtures("two_threads")
def test_equals_the_published_form(
    layer: str | None,
    lite0: Source,
    photos: list[np.ndarray],
    lite0_explainer: Path,
    earlier_explainer: Path,
) -> None:
    """Compare every pixel with the published form in float64.

    Where a Relu6 sits within rounding of its kink, float32 does not determine the gradient: there
    the published form in float32 is itself further than the tolerance from the one in float64, and
    we may be as far as that.
    """
    original = TorchClassifier(
        lite0.model, layer=layer, input_size=224, mean=lite0.mean, std=lite0.std
    )
    with Explainer(lite0_explainer if layer is None else earlier_explainer) as explainer:
        got = explainer.explain(photos)
    strict = 0
    for i, photo in enumerate(photos):
        truth = published(lite0, original, photo, got.scales, torch.float64)
        assert truth.target == got.targets[i]
        assert truth.scales_used == got.scales_used[i].tolist()
        error = np.abs(got.maps[i] - truth.saliency.numpy()).max()
        if error < TOLERANCE:
            strict += 1
            continue
        single = published(lite0, original, photo, got.scales, torch.float32)
        assert error < float((single.saliency - truth.saliency).abs().max())
    assert strict >= 3 if layer else strict == 4
    assert (~got.scales_used).sum() > 0, "no scale was dropped: a wrong class gate would not show"


def test_earlier_layer_has_a_gradient_that_varies(
    earlier_explainer: Path, lite0_explainer: Path
) -> None:
    for path, constant in ((earlier_explainer, False), (lite0_explainer, True)):
        facts = read_explainer(path).facts
        assert (facts.outputs["gradient"].shape[2:] == (1, 1)) == constant
        assert facts.outputs["activation"].shape[2:] == ("rows", "columns")


def test_asked_class_uses_every_scale(lite0_explainer: Path, photos: list[np.ndarray]) -> None:
    with Explainer(lite0_explainer) as explainer:
        free = explainer.explain(photos[:2])
        asked = explainer.explain(photos[:2], target=[int(free.targets[0]), 7])
    assert asked.scales_used.all()
    assert asked.targets.tolist() == [free.targets[0], 7]
    assert np.abs(asked.maps[1] - free.maps[1]).max() > 0.1  # another class, another map


def test_batch_equals_one_by_one(lite0_explainer: Path, photos: list[np.ndarray]) -> None:
    with Explainer(lite0_explainer) as explainer:
        together = explainer.explain(photos, scales=[224, 324])
        for i, photo in enumerate(photos):
            alone = explainer.explain([photo], scales=[224, 324])
            # Another batch size takes other kernels in the engine: float32 rounding.
            np.testing.assert_allclose(together.maps[i], alone.maps[0], atol=1e-4)
            assert (together.scales_used[i] == alone.scales_used[0]).all()


@pytest.mark.parametrize("size", [224, 324, 331])
def test_images_are_enlarged_as_in_torch(size: int) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    truth = torch.nn.functional.interpolate(
        torch.from_numpy(images), (size, size), mode="bicubic", align_corners=False
    ).numpy()
    np.testing.assert_allclose(enlarge_images(images, size), truth, atol=255 * 1e-5)
