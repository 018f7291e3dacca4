"""Results as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from klieg import Explainer
from klieg.rendering import overlay


@pytest.mark.parametrize(("method", "brightened"), [("saliency", True), ("gradcam", False)])
def test_pictures_of_single_pixels_are_brightened_but_not_the_maps(
    method: str, brightened: bool, small_explainer_all: Path, tmp_path: Path
) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    with Explainer(small_explainer_all) as explainer:
        explanation = explainer.explain([photo], method=method, target=1)
    (path,) = explanation.save(tmp_path)
    saliency = explanation.on_image(0)
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), saliency)
    drawn = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)[:320].astype(int)
    plain = overlay(photo, saliency, title="")[:320].astype(int)
    assert (np.abs(drawn - plain).max() > 20) == brightened
    if brightened:
        shown = overlay(
            photo, (saliency / np.quantile(saliency[saliency > 0], 0.99)).clip(0, 1), title=""
        )
        assert np.abs(drawn - shown[:320]).max() <= 1
