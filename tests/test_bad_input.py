"""What the Explainer refuses, with which error, and odd arrays that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from helpers.small_net import MEAN, STD
from klieg import Explainer, OnnxRuntime
from klieg.errors import (
    BackendError,
    ExplainerFileError,
    ImageError,
    InputError,
    NumericalError,
    OptionError,
    TargetError,
    UnsafeFileError,
)
from klieg.export import export_classifier


@pytest.fixture
def explainer(small_explainer: Path) -> Iterator[Explainer]:
    with Explainer(small_explainer) as opened:
        yield opened


def images(batch: int = 3, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, r"0\.\.4"),
        (-1, r"0\.\.4"),
        ("cow", "no class is named 'cow'"),
        ("cats", "did you mean 'cat'"),
        (1.0, "float"),
        (True, "bool"),
        ([0, 1], "2 targets for 3 images"),
        ([0, 1, 2, 3], "4 targets for 3 images"),
        ([0, 1, 9], r"0\.\.4"),
    ],
)
def test_impossible_targets(explainer: Explainer, target: Any, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        explainer.explain(images(3), target=target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lime"}, "cameras"),
        ({"scales": []}, "ascending"),
        ({"scales": [64, 32]}, "ascending"),
        ({"scales": [32, 32]}, "ascending"),
        ({"scales": [32.5]}, "ascending"),
        ({"scales": [0, 32]}, "ascending"),
        ({"method": "gradcam", "scales": [32, 64]}, "one scale"),
        ({"batch_size": 0}, "batch_size"),
        ({"fit": "squeeze"}, "letterbox"),
    ],
)
def test_impossible_options(explainer: Explainer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        explainer.explain(images(1), **options)


def test_scale_too_small_for_the_model_is_an_error(tmp_path: Path) -> None:
    import torch

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 9),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 5),
    )
    export_classifier(net, tmp_path / "n.onnx", input_size=32, mean=MEAN, std=STD)
    with (
        Explainer(tmp_path / "n.onnx") as explainer,
        pytest.raises(BackendError, match=r"\[1, 3, 4, 4\]"),
    ):
        explainer.explain(images(1), scales=[4])


def test_arrays_of_any_layout(explainer: Explainer) -> None:
    plain = images(1)
    expected = explainer.explain(plain, target=0).raw
    read_only = plain.copy()
    read_only.flags.writeable = False
    strided = np.repeat(plain, 2, axis=2)[:, :, ::2]
    flipped = np.ascontiguousarray(plain[:, ::-1])[:, ::-1]
    for variant in (
        read_only,
        strided,
        flipped,
        np.asfortranarray(plain),
        plain.astype(">u2"),
        plain.astype(">f4"),
        plain.astype(np.float64),
        list(plain),
    ):
        got = explainer.explain(variant, target=0).raw
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_input_is_not_changed(explainer: Explainer) -> None:
    photos = images(2)
    copy = photos.copy()
    explainer.explain(photos)
    np.testing.assert_array_equal(photos, copy)


def with_value(value: float) -> np.ndarray:
    photo = images(1).astype(np.float32)
    photo[0, 3, 4, 1] = value
    return photo


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (with_value(np.nan), "image 0.*NaN|nan|finite"),
        (with_value(np.inf), "image 0.*(inf|finite)"),
        (with_value(300), "300"),
        (images(1)[0], r"image\[None\]"),
        (images(1)[..., 0], r"\[40, 50\]|\[1, 40, 50\]"),
        (images(1).transpose(0, 3, 1, 2), "last|channels"),
        (images(1)[..., :1], "grey"),
        (np.zeros((1, 0, 5, 3), np.uint8), "0"),
    ],
)
def test_bad_images(explainer: Explainer, bad: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        explainer.explain(bad)


@pytest.mark.parametrize("empty", [np.zeros((0, 4, 4, 3), np.uint8), []])
def test_empty_batch(explainer: Explainer, empty: Any) -> None:
    with pytest.raises(InputError, match="no images"):
        explainer.explain(empty)


def test_nan_in_the_logits_is_an_error(small_explainer: Path, tmp_path: Path) -> None:
    model = onnx.load(small_explainer)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("head.bias"):
            broken = onnx.numpy_helper.from_array(np.full(5, np.nan, np.float32), tensor.name)
            tensor.CopyFrom(broken)
    onnx.save(model, tmp_path / "nan.onnx")
    with Explainer(tmp_path / "nan.onnx") as explainer, pytest.raises(NumericalError, match="NaN"):
        explainer.explain(images(1))


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_files_that_are_no_explainers(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ExplainerFileError, match=r"x\.onnx"):
        Explainer(tmp_path / "x.onnx")
    with pytest.raises(ExplainerFileError, match="No such file"):
        Explainer(tmp_path / "missing.onnx")


def test_plain_onnx_is_no_explainer(small_explainer: Path, tmp_path: Path) -> None:
    model = onnx.load(small_explainer)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    with pytest.raises(ExplainerFileError, match="klieg export"):
        Explainer(tmp_path / "plain.onnx")


def test_external_data_is_refused(small_explainer: Path, tmp_path: Path) -> None:
    onnx.save(
        onnx.load(small_explainer),
        tmp_path / "x.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="weights.bin",
    )
    with pytest.raises(UnsafeFileError, match=r"weights\.bin"):
        Explainer(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "99"),
        ("kind", '"oracle"'),
        ("input_size", "-3"),
        ("input_size", '"32"'),
        ("scales", "[32, 16]"),
        ("scales", "[]"),
        ("class_names", '["a", 1]'),
        ("probability", '"maybe"'),
        ("layer", "7"),
        ("parity", "[]"),
        ("layer", "not json"),
        ("masker", "7"),
    ],
)
def test_damaged_metadata(small_explainer: Path, tmp_path: Path, key: str, value: str) -> None:
    model = onnx.load(small_explainer)
    for entry in model.metadata_props:
        if entry.key == f"klieg.{key}":
            entry.value = value
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ExplainerFileError):
        Explainer(tmp_path / "x.onnx")


def test_engines_are_chosen_not_guessed(small_explainer: Path) -> None:
    with pytest.raises(OptionError, match="onnxruntime"):
        Explainer(small_explainer, backend="tensorflow")
    with pytest.raises(BackendError, match="NoSuchProvider"):
        Explainer(small_explainer, backend=OnnxRuntime(providers=["NoSuchProvider"]))
    with pytest.raises(OptionError, match="threads"):
        Explainer(small_explainer, backend=OnnxRuntime(threads=0))


def test_closed_explainer_says_so(small_explainer: Path) -> None:
    with Explainer(small_explainer, backend=OnnxRuntime(threads=1)) as explainer:
        explainer.explain(images(1))
    with pytest.raises(BackendError, match="closed"):
        explainer.explain(images(1))
