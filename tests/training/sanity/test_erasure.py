"""Photos without the pixels that rank highest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.toy_patches import SIDE, listed
from klieg import Explainer
from klieg.images.formats import read_image
from klieg.training.sanity import erasure
from klieg.training.sanity.erasure import ErasedPhotos, top_pixels


class StoppedError(Exception):
    pass


def test_half_written_maps_are_no_maps(
    patch_explainer: Path, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise StoppedError

    photos = listed(patches)[:3]
    path = tmp_path / "maps.npy"
    with Explainer(patch_explainer) as explainer:
        with monkeypatch.context() as patch:
            patch.setattr(explainer, "explain_iter", interrupted)
            with pytest.raises(StoppedError):
                erasure.maps_of(explainer, photos, "gradcam", path=path, seed=0)
        assert not list(tmp_path.iterdir())
        assert erasure.maps_of(explainer, photos, "gradcam", path=path, seed=0).shape[0] == 3


@pytest.mark.parametrize(
    ("shape", "share"), [((4, 4), 0.3), ((5, 7), 0.5), ((3, 3), 1), ((1, 9), 0)]
)
def test_top_pixels_equal_picking_one_by_one(shape: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(0)
    saliency = rng.permutation(shape[0] * shape[1]).reshape(shape).astype(np.float32)
    left, chosen = saliency.copy(), np.zeros(shape, dtype=bool)
    for _ in range(round(share * saliency.size)):
        place = np.unravel_index(left.argmax(), shape)
        chosen[place], left[place] = True, -1
    np.testing.assert_array_equal(top_pixels(saliency, share, seed=(0,)), chosen)


def test_equal_pixels_are_drawn() -> None:
    flat = np.zeros((20, 20), np.float32)
    flat[7] = 1
    first, again, other = (top_pixels(flat, 0.5, seed=seed) for seed in ((0,), (0,), (1,)))
    assert first[7].all()
    assert first.sum() == other.sum() == 200
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # 190 of the upper 180 and lower 220 others: by rows the upper 180 would all be among them.
    assert 60 < first[:10].sum() < 140


def test_removed_pixels_have_the_mean_colour(patch_explainer: Path, patches: Path) -> None:
    photos = listed(patches)[:2]
    maps = np.zeros((2, SIDE, SIDE), np.float32)
    maps[:, :8] = 1
    with Explainer(patch_explainer) as explainer:
        image, label = ErasedPhotos(explainer, photos, maps=maps, share=0.25)[1]
        whole, _ = ErasedPhotos(explainer, photos)[1]
    assert label == photos[1].label
    pixels = read_image(photos[1].path).transpose(2, 0, 1)
    np.testing.assert_allclose(whole.numpy() * 0.25 + 0.25, pixels / 255, atol=1e-6)  # float32
    assert (image[:, :8] == 0).all()
    torch.testing.assert_close(image[:, 8:], whole[:, 8:], rtol=0, atol=0)
