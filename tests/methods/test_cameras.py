"""CAMERAS maps of a real network against the published form in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from klieg import Explainer
from klieg.export import export_classifier
from klieg.export.published_cameras import published_cameras
from klieg.export.sources import Source
from klieg.export.torch_classifier import TorchClassifier
from klieg.images.fitting import fit_image
from klieg.methods.cameras import enlarge_images

TOLERANCE = 1e-4
EARLIER_LAYER = "_blocks.15"  # before the last convolution: its gradient varies in space


@pytest.fixture(scope="module")
def earlier_explainer(lite0: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("earlier") / "earlier.onnx"
    export_classifier(lite0.model, path, layer=EARLIER_LAYER, mean=lite0.mean, std=lite0.std)
    return path


@pytest.mark.parametrize("layer", [None, EARLIER_LAYER])
def test_equals_the_published_form(
    layer: str | None,
    lite0: Source,
    photos: list[np.ndarray],
    lite0_explainer: Path,
    earlier_explainer: Path,
) -> None:
    original = TorchClassifier(
        lite0.model, layer=layer, input_size=224, mean=lite0.mean, std=lite0.std
    )
    with Explainer(lite0_explainer if layer is None else earlier_explainer) as explainer:
        got = explainer.explain(photos)
        assert (explainer.backend.run(
            np.zeros((1, 3, 224, 224), np.float32), np.array([-1]), ("gradient",)
        )[0].shape[2:] == (1, 1)) == (layer is None)  # fmt: skip
    dropped = False
    for i, photo in enumerate(photos):
        fitted, _ = fit_image(photo, 224, "crop")
        image = torch.from_numpy(fitted.transpose(2, 0, 1)[None].copy())
        mean, std = (torch.tensor(v).float().view(1, -1, 1, 1) for v in (lite0.mean, lite0.std))
        truth = published_cameras(
            original.module, original.tap, (image / 255 - mean) / std, got.scales
        )
        assert truth.target == got.targets[i]
        assert truth.scales_used == got.scales_used[i].tolist()
        np.testing.assert_allclose(got.maps[i], truth.saliency.numpy(), atol=TOLERANCE)
        dropped |= not all(truth.scales_used)
    assert dropped, "no photo dropped a scale: the test would not see a wrong class gate"


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
