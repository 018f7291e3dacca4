"""Several classes of one image: what is shared, and that rows come out as if asked one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.small_net import small_net
from helpers.torch_backend import TorchBackend
from klieg import Explainer
from klieg.errors import TargetError
from klieg.images.batch import Batch
from klieg.model_file.methods import METHODS, checked_options

CAM_FAMILY = [name for name, method in METHODS.items() if "gradient" in method.outputs]


def batch() -> Batch:
    """Return three images: asked two classes, one, and three."""
    images = np.random.default_rng(1).uniform(0, 255, (3, 3, 32, 32)).astype(np.float32)
    return Batch(images, np.array([1, 2, 3, 4, -1, 0]), np.array([0, 0, 1, 2, 2, 2]))


def explain(method: str, backend: TorchBackend, question: Batch) -> Any:
    # The search of "extremal" amplifies rounding step by step: see sdk/DESIGN.md.
    given = {"rise": {"masks": 20}, "extremal": {"steps": 20}}.get(method, {})
    options = checked_options(method, given)
    sizes = (32, 48, 64) if METHODS[method].multi_scale else (32,)
    return METHODS[method].function(backend.model(), question, sizes, **options)


@pytest.mark.parametrize("several_targets", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_equals_one_by_one(method: str, several_targets: bool) -> None:
    question = batch()
    backend = TorchBackend(small_net(), several_targets=several_targets)
    together = explain(method, backend, question)
    assert together.raw.shape == (6, 32, 32)
    assert together.logits.shape == (6, 5)
    np.testing.assert_array_equal(together.logits[3], together.logits[5])
    assert together.targets.tolist()[:4] == [1, 2, 3, 4]
    assert together.targets[4] == together.logits[4].argmax()
    for row, owner in enumerate(question.image_index):
        image = question.images[owner : owner + 1]
        alone = Batch.single(image, question.targets[row : row + 1])
        expected = explain(method, TorchBackend(small_net()), alone)
        # Another batch size, another order of float32 sums.
        size = np.abs(expected.raw).max()
        np.testing.assert_allclose(together.raw[row], expected.raw[0], atol=1e-4 * size)
        assert (together.scales_used[row] == expected.scales_used[0]).all()


@pytest.mark.parametrize("method", [*CAM_FAMILY, "excitation_backprop", "contrastive_excitation"])
def test_forward_passes_are_shared(method: str) -> None:
    shared = TorchBackend(small_net(), several_targets=True)
    explain(method, shared, batch())
    repeated = TorchBackend(small_net())
    explain(method, repeated, batch())
    scales = 3 if method == "cameras" else 1
    extra = 2 if method == "cam" else 0  # its check of the head, on one image
    assert sum(shared.image_rows) == 3 * scales + extra  # 3 images
    assert sum(shared.target_rows) == 3 * 3 * scales + extra  # 3 classes at most of each
    assert sum(repeated.image_rows) == 6 * scales + extra  # 6 questions


def test_rise_shares_all_its_passes() -> None:
    backend = TorchBackend(small_net())
    explain("rise", backend, batch())
    assert sum(backend.image_rows) == 3 + 20 * 3


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", ["cameras", "gradcam"])
def test_explanation_has_a_row_per_image_and_class(small_explainer: Path, method: str) -> None:
    photos = images(3)
    with Explainer(small_explainer) as explainer:
        result = explainer.explain(
            photos, method=method, target=[[1, "cat"], 4, (None, 0)], batch_size=2
        )
        single = [
            explainer.explain(photos[i : i + 1], method=method, target=target)
            for i, target in ((0, 1), (0, 2), (1, 4), (2, None), (2, 0))
        ]
    assert len(result) == 5
    assert result.targets.tolist() == [int(one.targets[0]) for one in single]
    assert result.names == ("0", "0", "1", "2", "2")
    assert len(result.photos) == len(result.placements) == 5
    assert result.photos[0] is result.photos[1]
    for row, one in enumerate(single):
        np.testing.assert_allclose(result.maps[row], one.maps[0], atol=1e-4)
        np.testing.assert_allclose(result.logits[row], one.logits[0], atol=1e-5)


def test_rows_of_one_photo_are_saved_apart(small_explainer: Path, tmp_path: Path) -> None:
    with Explainer(small_explainer) as explainer:
        result = explainer.explain(images(1), method="gradcam", target=[[0, 1]])
    assert [path.name for path in result.save(tmp_path)] == ["0.png", "0-2.png"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([[1, 2]], "1 targets for 2 images"),
        ([[1, 2], []], "empty list of targets"),
        ([[1, 9], [0]], r"0\.\.4"),
        ([[1, [2]], [0]], "list"),
    ],
)
def test_impossible_lists(small_explainer: Path, target: Any, message: str) -> None:
    with Explainer(small_explainer) as explainer, pytest.raises(TargetError, match=message):
        explainer.explain(images(2), method="gradcam", target=target)
