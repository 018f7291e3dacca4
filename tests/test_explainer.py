"""The Explainer: batches, options, targets, streams, results."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small_net import MEAN, NAMES, STD, small_net
from klieg import Explainer, OnnxRuntime
from klieg.errors import (
    ImageDecodeError,
    ImageError,
    InputError,
    OptionError,
    TargetError,
)
from klieg.export import export_classifier
from klieg.kernels.normalisation import normalise


@pytest.fixture
def explainer(small_explainer: Path) -> Iterator[Explainer]:
    with Explainer(small_explainer) as opened:
        yield opened


def images(batch: int = 3, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("method", ["cameras", "gradcam", "hirescam"])
def test_result(explainer: Explainer, method: str, batch: int) -> None:
    result = explainer.explain(images(batch), method=method)
    scales = 8 if method == "cameras" else 1
    assert result.maps.shape == result.raw.shape == (batch, 32, 32)
    assert result.maps.dtype == result.raw.dtype == np.float32
    assert result.logits.shape == (batch, 5)
    assert result.scales_used.shape == (batch, scales)
    assert len(result.scales) == scales
    assert (result.targets == result.logits.argmax(axis=1)).all()
    assert len(result) == len(result.photos) == len(result.names) == batch
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-5)
    for i in range(batch):
        assert result.on_image(i).shape == (40, 50)
        if not result.degenerate[i]:
            assert result.maps[i].min() == 0
            assert result.maps[i].max() == 1
    assert {"klieg", "onnxruntime", "explainer_sha256"} <= set(result.versions)


def test_methods_follow_their_formulas(explainer: Explainer) -> None:
    photo = images(1, 32, 32)
    backend_images = np.ascontiguousarray(photo.transpose(0, 3, 1, 2), dtype=np.float32)
    target = np.array([2], dtype=np.int64)
    activation, gradient = explainer.backend.run(backend_images, target, ("activation", "gradient"))
    cells = (activation * gradient).sum(axis=1)[0]
    # this net's gradient is the same everywhere, so both methods give the same cells
    for method in ("gradcam", "hirescam"):
        raw = explainer.explain(photo, method=method, target=2).raw[0]
        expected = cv2.resize(cells, (32, 32), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(raw, expected, atol=1e-5)


def test_hirescam_and_gradcam_differ_where_the_gradient_varies(tmp_path: Path) -> None:
    path = tmp_path / "early.onnx"
    export_classifier(small_net(), path, layer="features.3", input_size=32, mean=MEAN, std=STD)
    with Explainer(path) as explainer:
        outputs = explainer.backend.run(
            np.ascontiguousarray(images(1, 32, 32).transpose(0, 3, 1, 2), dtype=np.float32),
            np.array([1], dtype=np.int64),
            ("activation", "gradient"),
        )
        activation, gradient = (output[0] for output in outputs)
        cam = (activation * gradient.mean(axis=(1, 2), keepdims=True)).sum(axis=0)
        hires = (activation * gradient).sum(axis=0)
        for method, cells in (("gradcam", cam), ("hirescam", hires)):
            raw = explainer.explain(images(1, 32, 32), method=method, target=1).raw[0]
            expected = cv2.resize(cells, (32, 32), interpolation=cv2.INTER_LINEAR)
            np.testing.assert_allclose(raw, expected, atol=1e-5)
    assert np.abs(cam - hires).max() > 1e-3


def test_map_depends_on_image_and_class(explainer: Explainer) -> None:
    photos = images(2, 32, 32)
    result = explainer.explain(photos, target=0)
    other = explainer.explain(photos, target=1)
    size = np.abs(result.raw).max()
    assert np.abs(result.raw[0] - result.raw[1]).max() > 0.01 * size
    assert np.abs(result.raw - other.raw).max() > 0.01 * size


def test_targets_by_number_name_and_image(explainer: Explainer) -> None:
    photos = images(3)
    assert explainer.explain(photos, target=4).targets.tolist() == [4, 4, 4]
    assert explainer.explain(photos, target="cat").targets.tolist() == [2, 2, 2]
    free = explainer.explain(photos)
    mixed = explainer.explain(photos, target=["eel", np.int32(0), None])
    assert mixed.targets.tolist() == [4, 0, free.targets[2]]
    swapped = np.array([1, 2, 3], dtype=">i8")
    assert explainer.explain(photos, target=swapped).targets.tolist() == [1, 2, 3]
    assert mixed.class_name(4) == "eel"


def test_scales_are_an_option(explainer: Explainer) -> None:
    result = explainer.explain(images(2), scales=[48, 64, 100], target=0)
    assert result.maps.shape == (2, 48, 48)
    assert result.scales == (48, 64, 100)
    assert explainer.explain(images(1), method="gradcam", scales=[64]).maps.shape == (1, 64, 64)


def test_fixed_size_model(tmp_path: Path) -> None:
    import torch

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 8 * 8, 5),
    )
    export_classifier(net, tmp_path / "f.onnx", input_size=32, mean=MEAN, std=STD)
    with Explainer(tmp_path / "f.onnx") as explainer:
        with pytest.raises(OptionError, match="32 x 32 pixels only"):
            explainer.explain(images(1))
        with pytest.raises(OptionError, match="32 x 32 pixels only"):
            explainer.explain(images(1), scales=[32, 64])
        assert explainer.explain(images(1), scales=[32]).maps.shape == (1, 32, 32)
        assert explainer.explain(images(1), method="gradcam").maps.shape == (1, 32, 32)


def test_paths_of_photos(explainer: Explainer, tmp_path: Path) -> None:
    photo = images(1)[0]
    cv2.imwrite(str(tmp_path / "a.png"), photo[..., ::-1])
    result = explainer.explain([tmp_path / "a.png", photo], target=0)
    np.testing.assert_array_equal(result.photos[0], photo)
    np.testing.assert_allclose(result.maps[0], result.maps[1], atol=1e-6)
    assert result.names == (str(tmp_path / "a.png"), "1")
    assert explainer.explain(tmp_path / "a.png").maps.shape == (1, 32, 32)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    with pytest.raises(ImageDecodeError, match=r"image 1: .*b\.png"):
        explainer.explain([tmp_path / "a.png", tmp_path / "b.png"])


def test_flat_map_is_zero_and_flagged(tmp_path: Path) -> None:
    net = small_net()
    net.head.weight.data.zero_()
    export_classifier(net, tmp_path / "flat.onnx", input_size=32, mean=MEAN, std=STD)
    with Explainer(tmp_path / "flat.onnx") as explainer:
        result = explainer.explain(images(2))
    assert result.degenerate.all()
    assert (result.maps == 0).all()


def test_stream_is_lazy_and_flat_in_memory(explainer: Explainer) -> None:
    taken = 0

    def source(count: int) -> Iterator[np.ndarray]:
        nonlocal taken
        for number in range(count):
            taken += 1
            yield np.full((64, 64, 3), number % 256, dtype=np.uint8)

    stream = explainer.explain_iter(source(40), method="gradcam", batch_size=4)
    assert len(next(stream)) == 4
    assert taken == 4
    assert sum(len(part) for part in stream) == 36

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in explainer.explain_iter(source(count), method="gradcam", batch_size=4):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(8)  # fills caches
    assert peak(80) < 1.5 * peak(8)


def test_stream_takes_targets_along(explainer: Explainer) -> None:
    parts = list(explainer.explain_iter(images(5), target=iter([0, 1, 2, 3, 4]), batch_size=2))
    assert [part.targets.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    for targets in ([0], [0, 1, 2, 3, 4, 0]):
        with pytest.raises(TargetError, match="one target per image"):
            list(explainer.explain_iter(images(5), target=targets))


def test_stream_can_leave_out_what_cannot_be_used(explainer: Explainer) -> None:
    photos = [images(1)[0], np.zeros((2, 2)), images(1)[0], "missing.png"]
    errors: list[ImageError] = []
    parts = list(explainer.explain_iter(photos, batch_size=2, on_image_error=errors.append))
    assert [len(part) for part in parts] == [2]
    assert parts[0].names == ("0", "2")
    assert [str(error)[:8] for error in errors] == ["image 1:", "image 3:"]


def test_batches_equal_one_call(explainer: Explainer) -> None:
    photos = images(5)
    one = explainer.explain(photos, batch_size=5)
    many = explainer.explain(photos, batch_size=2)
    np.testing.assert_allclose(one.maps, many.maps, atol=1e-4)
    assert one.names == many.names
    assert len(many.photos) == 5


def test_saving(explainer: Explainer, tmp_path: Path) -> None:
    result = explainer.explain(images(2), target=NAMES[1])
    overlays = result.save(tmp_path / "out")
    assert [p.name for p in overlays] == ["0.png", "1.png"]
    saved = np.load(tmp_path / "out" / "1.npy")
    np.testing.assert_array_equal(saved, result.on_image(1))
    assert cv2.imread(str(overlays[0])) is not None
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"0.npy", "0.png", "1.npy", "1.png"}


def test_photos_of_one_name_do_not_overwrite_each_other(
    explainer: Explainer, tmp_path: Path
) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "cat.png")
        cv2.imwrite(str(paths[-1]), images(1)[0])
    overlays = explainer.explain(paths, method="gradcam").save(tmp_path / "out")
    assert [p.name for p in overlays] == ["cat.png", "cat-2.png"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.floats(-1e3, 1e3))
def test_normalise(height: int, width: int, seed: int, offset: float) -> None:
    noise = np.random.default_rng(seed).standard_normal((2, height, width))
    raw = (noise + offset).astype(np.float32)
    maps, degenerate = normalise(raw)
    assert np.isfinite(maps).all()
    for one, original, flat in zip(maps, raw, degenerate, strict=True):
        positive = np.maximum(original, 0)
        if flat:
            assert not one.any()
        else:
            assert one.min() == 0
            assert one.max() == 1
            span = positive.max() - positive.min()
            np.testing.assert_allclose(one * span + positive.min(), positive, atol=1e-4 * span)


def test_rounding_is_not_blown_up_to_a_map() -> None:
    raw = np.full((1, 4, 4), 3, dtype=np.float32)
    raw[0, 0, 0] = np.nextafter(np.float32(3), np.float32(4))
    maps, degenerate = normalise(raw)
    assert degenerate[0]
    assert not maps.any()


def test_number_of_open_files_does_not_grow(explainer: Explainer, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), images(1)[0])
    explainer.explain([tmp_path / "a.png"], method="gradcam")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        explainer.explain([tmp_path / "a.png"], method="gradcam")
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_prepared_images_are_what_a_method_passes(small_explainer: Path, fit: Any) -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (40 + n, 61, 3), dtype=np.uint8) for n in range(3)]
    with Explainer(small_explainer) as explainer:
        images, placements = explainer.prepare(iter(photos), fit=fit)
        explanation = explainer.explain(photos, method="gradcam", fit=fit)
        assert images.shape == (3, 3, 32, 32)
        assert placements == explanation.placements
        np.testing.assert_array_equal(explainer.model.logits(images), explanation.logits)


def test_what_an_explainer_hands_out_works_without_it(small_explainer: Path) -> None:
    images = np.zeros((1, 3, 32, 32), np.float32)
    assert Explainer(small_explainer).model.logits(images).shape == (1, 5)
    engine = Explainer(small_explainer, backend=OnnxRuntime(threads=1)).backend
    assert engine.run(images, np.zeros(1, np.int64), ["logits"])[0].shape == (1, 5)


def test_a_stream_can_be_closed_and_is_lazy(small_explainer: Path) -> None:
    asked = []

    def photos() -> Iterator[np.ndarray]:
        for number in range(9):
            asked.append(number)
            yield np.full((40, 40, 3), number, np.uint8)

    with Explainer(small_explainer) as explainer:
        with contextlib.closing(explainer.explain_iter(photos(), batch_size=2)) as stream:
            assert asked == []
            next(stream)
        assert len(asked) <= 4
        with pytest.raises(StopIteration):
            next(stream)
        with pytest.raises(InputError, match="got no images"):
            explainer.prepare([])
        with pytest.raises(OptionError, match=r"batch_size is 2\.5"):
            explainer.read(photos(), batch_size=2.5)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=r"'nope', which .* no klieg exports it"):
            explainer.check_outputs("mine", {"nope"})
