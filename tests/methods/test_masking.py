"""casm: the mask of a masking model as a map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from helpers.small_net import small_net
from helpers.torch_backend import TorchBackend
from klieg import Explainer
from klieg.cli import main
from klieg.errors import NumericalError, TargetError
from klieg.images.batch import Batch
from klieg.methods.masking import casm


@pytest.fixture
def explainer(small_explainer_all: Path) -> Iterator[Explainer]:
    with Explainer(small_explainer_all) as opened:
        yield opened


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)


def with_bias(source: Path, target: Path, value: float) -> Path:
    """Write an explainer whose last convolution of the head returns a constant."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if "merge" in tensor.name:
            array = onnx.numpy_helper.to_array(tensor)
            fill = value if tensor.name.endswith("bias") else 0
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.full(array.shape, fill, np.float32), tensor.name)
            )
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("count", [1, 7])
def test_map_is_the_mask(explainer: Explainer, count: int) -> None:
    result = explainer.explain(photos(count), method="casm", fit="stretch", scales=[45])
    assert result.maps.shape == result.raw.shape == (count, 45, 45)
    assert result.maps.dtype == np.float32
    np.testing.assert_array_equal(result.maps, result.raw)
    assert not np.shares_memory(result.maps, result.raw)
    assert 0 < result.maps.min() < result.maps.max() < 1  # not stretched to 0..1
    assert not result.degenerate.any()
    assert (result.targets == result.logits.argmax(axis=1)).all()
    assert result.scales == (45,)
    assert result.scales_used.shape == (count, 1)
    assert result.on_image(0).shape == (40, 50)


@pytest.mark.parametrize("target", [2, "cat", [1, 2], [[1, 2], [0]], [None, None], iter([0, 1])])
def test_target_is_refused_before_any_pass(
    explainer: Explainer, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pass(*_: Any) -> None:
        raise AssertionError("a pass")

    monkeypatch.setattr(explainer.backend, "run", no_pass)
    for explain in (explainer.explain, explainer.explain_iter):
        with pytest.raises(TargetError, match="'casm', whose map does not depend on a class"):
            explain(photos(2), method="casm", target=target)


def test_target_is_refused_on_the_command_line(small_explainer_all: Path, tmp_path: Path) -> None:
    import cv2

    photo, out = tmp_path / "a.png", tmp_path / "out"
    cv2.imwrite(str(photo), photos(1)[0])
    arguments = [
        "explain",
        str(small_explainer_all),
        str(photo),
        "-o",
        str(out),
        "--method",
        "casm",
    ]
    refused = CliRunner().invoke(main, [*arguments, "--target", "cat"])
    assert refused.exit_code == 1
    assert "leave the target out" in refused.output
    assert not out.exists()
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert np.load(out / "a.npy").shape == (40, 50)


@pytest.mark.parametrize(("bias", "value"), [(0.0, 0.5), (60.0, 1.0), (-200.0, 0.0)])
def test_flat_mask_is_flagged_and_kept(
    small_explainer_all: Path, tmp_path: Path, bias: float, value: float
) -> None:
    path = with_bias(small_explainer_all, tmp_path / "flat.onnx", bias)
    with Explainer(path) as explainer:
        result = explainer.explain(photos(2), method="casm")
    assert result.degenerate.all()
    np.testing.assert_allclose(result.maps, value, atol=1e-6)


def test_nan_in_the_mask_is_an_error(small_explainer_all: Path, tmp_path: Path) -> None:
    path = with_bias(small_explainer_all, tmp_path / "nan.onnx", np.nan)
    with Explainer(path) as explainer:
        with pytest.raises(NumericalError, match="NaN or infinite mask for image 0"):
            explainer.explain(photos(2), method="casm")
        explainer.explain(photos(2), method="gradcam")  # the classifier is well


class Amplified(TorchBackend):
    def run(self, images: Any, targets: Any, outputs: Any) -> list[np.ndarray]:
        logits, mask = super().run(images, targets, outputs)
        return [logits, mask * self.factor]

    factor = 1.0


def test_values_outside_0_to_1() -> None:
    images = np.random.default_rng(1).uniform(0, 255, (2, 3, 32, 32)).astype(np.float32)
    batch = Batch.single(images, np.array([-1, -1]))
    backend = Amplified(small_net())
    plain = casm(backend.model(), batch, (32,)).raw
    backend.factor = (1 + 1e-5) / plain.max()
    assert casm(backend.model(), batch, (32,)).raw.max() == 1
    backend.factor = 2.0
    with pytest.raises(NumericalError, match=r"expected 0\.\.1: export"):
        casm(backend.model(), batch, (32,))


def test_one_pass_per_image_however_many_questions() -> None:
    images = np.random.default_rng(1).uniform(0, 255, (2, 3, 32, 32)).astype(np.float32)
    for several_targets in (False, True):
        backend = TorchBackend(small_net(), several_targets=several_targets)
        result = casm(backend.model(), Batch(images, np.arange(4), np.array([0, 0, 0, 1])), (32,))
        assert backend.image_rows == backend.target_rows == [2]
        np.testing.assert_array_equal(result.raw[0], result.raw[2])
        assert np.abs(result.raw[0] - result.raw[3]).max() > 0.1
        assert result.targets.tolist() == [0, 1, 2, 3]
