"""Bare ONNX models as other tools write them, exported and compared with the plain one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from helpers.bare_models import (
    GREY,
    RGB,
    SIZE,
    channels_last,
    convolutional,
    explain,
    model,
    same,
    two_views,
    with_metadata_inputs,
)
from klieg import Explainer
from klieg.cli import main
from klieg.errors import ExportError, ImageError, OptionError
from klieg.export import export_classifier
from klieg.model_file.explainer_file import read_explainer


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (2, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return explain(convolutional(), tmp_path_factory.mktemp("plain"), images)


@pytest.mark.parametrize("fixed", [False, True])
def test_channels_last(
    fixed: bool, images: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    proto = channels_last()
    if fixed:
        for axis in (1, 2):
            proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = SIZE
    same(explain(proto, tmp_path, images), expected, rtol=1e-6)
    file = read_explainer(tmp_path / "explainer.onnx")
    assert file.info.layer == "last"
    assert file.fixed_size == fixed


def test_float16(images: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    proto = convolutional()
    halves = {t.name: numpy_helper.to_array(t).astype(np.float16) for t in proto.graph.initializer}
    half = model(
        list(proto.graph.node),
        {"image": ["n", 3, "h", "w"]},
        {"logits": ["n", 4]},
        halves,
        TensorProto.FLOAT16,
    )
    # Half precision has eleven bits.
    same(explain(half, tmp_path, images), expected, rtol=5e-3)
    facts = read_explainer(tmp_path / "explainer.onnx").facts
    assert {t.dtype for t in (facts.inputs["image"], *facts.outputs.values())} == {"float32"}


def test_float16_weights_only(
    images: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    proto = convolutional()
    casts = []
    for tensor in proto.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        casts.append(oh.make_node("Cast", [f"{tensor.name}_half"], [tensor.name], to=1))
        tensor.CopyFrom(numpy_helper.from_array(half, f"{tensor.name}_half"))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    same(explain(proto, tmp_path, images), expected, rtol=2e-3)


def test_other_inputs_are_set(
    images: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    fixed = {"age": 40, "scale": 1}
    got = explain(with_metadata_inputs(), tmp_path, images, fixed_inputs=fixed)
    same(got, expected, rtol=1e-6)
    assert read_explainer(tmp_path / "explainer.onnx").facts.inputs.keys() == {"image", "target"}


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({}, r"inputs besides the image 'image': \['age', 'scale'\]; give each a fixed value"),
        ({"age": 1, "scale": 1, "sex": 1}, r"fixed_inputs names \['sex'\]"),
        ({"age": "old", "scale": 1}, r"fixed input 'age' is 'old', expected a value of type FLOAT"),
        ({"age": [1, 2, 3], "scale": 1}, r"fixed input 'age' is \[1, 2, 3\]"),
    ],
)
def test_other_inputs_without_a_value(fixed: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        export_classifier(
            with_metadata_inputs(), tmp_path / "x.onnx", input_size=SIZE, fixed_inputs=fixed, **RGB
        )


def test_several_images_and_scores(
    images: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for options, message in (
        ({}, "name the image"),
        ({"image": "depth", "fixed_inputs": {"image": 0}}, "name the one with score"),
        ({"image": "nothing"}, "none of rank 4 is named 'nothing'"),
        ({"image": "image", "fixed_inputs": {"depth": 0}, "score": "r"}, "is named 'r'"),
    ):
        with pytest.raises(ExportError, match=message):
            explain(two_views(), tmp_path, images, **options)  # type: ignore[arg-type]
    names: dict[str, Any] = {"image": "image", "fixed_inputs": {"depth": np.zeros((1, 3, 1, 1))}}
    proto = copy.deepcopy(two_views())
    for axis in (2, 3):
        proto.graph.input[1].type.tensor_type.shape.dim[axis].dim_value = 1
    same(explain(proto, tmp_path, images, score="logits", **names), expected, rtol=1e-6)
    negative = explain(proto, tmp_path, images, score="opposite", **names)
    np.testing.assert_allclose(negative["gradient"], -expected["gradient"], rtol=1e-5)


def test_from_the_command_line(tmp_path: Path) -> None:
    path, out = tmp_path / "two.onnx", tmp_path / "explainer.onnx"
    onnx.save(two_views(), path)
    arguments = ["export", str(path), "-o", str(out), "--input-size", str(SIZE)]
    arguments += ["--mean", "0.4,0.5,0.45", "--std", "0.2,0.25,0.3"]
    chosen = ["--image", "image", "--score", "opposite", "--set", "depth=0"]
    for given, message in (
        ([], "(--image)"),
        (chosen[:2], "(--set)"),
        ([*chosen[:2], *chosen[4:]], "(--score)"),
        (["--set", "depth"], "'depth' is not a name and a number"),
    ):
        result = CliRunner().invoke(main, arguments + given)
        assert result.exit_code in (1, 2)
        assert message in result.output
        assert not out.exists()
    # The depth has the size of the image, so zeros of one pixel do: they are added to it.
    proto = two_views()
    for axis in (2, 3):
        proto.graph.input[1].type.tensor_type.shape.dim[axis].dim_value = 1
    onnx.save(proto, path)
    result = CliRunner().invoke(main, arguments + chosen)
    assert result.exit_code == 0, result.output
    assert out.exists()


def test_batch_of_one(images: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    proto = convolutional()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    same(explain(proto, tmp_path, images), expected, rtol=1e-6)


def test_batch_of_one_that_is_built_in(images: np.ndarray, tmp_path: Path) -> None:
    proto = convolutional()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    proto.graph.node[3].CopyFrom(oh.make_node("Reshape", ["p", "shape"], ["f"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 6]), "shape"))
    with pytest.raises(ExportError, match="two images at once: export it with a dynamic batch"):
        explain(proto, tmp_path, images)


def test_scores_with_axes_of_size_one(
    images: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """A head of 1 x 1 convolutions, its Softmax before the last Reshape."""
    proto = convolutional()
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    weights["w2"] = np.ascontiguousarray(weights["w2"].T)[..., None, None]
    nodes = [
        *proto.graph.node[:3],
        oh.make_node("Conv", ["p", "w2", "b2"], ["s"]),
        oh.make_node("Softmax", ["s"], ["probabilities"], axis=1),
        oh.make_node("Flatten", ["probabilities"], ["flat"]),
    ]
    head = model(nodes, {"image": ["n", 3, "h", "w"]}, {"flat": ["n", 4]}, weights)
    same(explain(head, tmp_path, images), expected, rtol=1e-6)
    assert read_explainer(tmp_path / "explainer.onnx").info.probability == "softmax"


def test_multi_label(images: np.ndarray, expected: dict[str, np.ndarray], tmp_path: Path) -> None:
    proto = convolutional()
    proto.graph.node.append(oh.make_node("Sigmoid", ["logits"], ["findings"]))
    proto.graph.output[0].name = "findings"
    same(explain(proto, tmp_path, images), expected, rtol=1e-6)
    assert read_explainer(tmp_path / "explainer.onnx").info.probability == "sigmoid"


def test_one_channel(images: np.ndarray, tmp_path: Path) -> None:
    got = explain(convolutional(channels=1), tmp_path, images[:, :1], **GREY)
    assert got["image_gradient"].shape == (2, 1, SIZE, SIZE)
    with pytest.raises(ExportError, match=r"but mean and std are for 3 channels"):
        explain(convolutional(channels=1), tmp_path, images)
    with Explainer(tmp_path / "explainer.onnx") as explainer:
        grey = np.repeat(images[:, :1].round().astype(np.uint8), 3, axis=1).transpose(0, 2, 3, 1)
        result = explainer.explain(grey, method="saliency", target=2)
    expected = explain(convolutional(channels=1), tmp_path, images[:, :1].round(), **GREY)
    np.testing.assert_allclose(result.logits, expected["logits"], rtol=1e-5)
    assert not result.degenerate.any()


def test_other_numbers_of_channels_are_refused_by_the_runtime(
    images: np.ndarray, tmp_path: Path
) -> None:
    four = np.concatenate([images, images[:, :1]], axis=1)
    statistics = {"mean": [0.5] * 4, "std": [0.25] * 4}
    explain(convolutional(channels=4), tmp_path, four, **statistics)
    with (
        Explainer(tmp_path / "explainer.onnx") as explainer,
        pytest.raises(ImageError, match="4 channels, but photos have 3"),
    ):
        explainer.explain(np.full((1, SIZE, SIZE, 3), 9, np.uint8), method="gradcam")


def test_size_that_is_built_in(images: np.ndarray, tmp_path: Path) -> None:
    """A model that claims to take any size, but has a head for one."""
    proto = convolutional()
    random = np.random.default_rng(0)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    weights["w2"] = random.standard_normal((6 * 64, 4), dtype=np.float32)
    nodes = [*proto.graph.node[:2], oh.make_node("Flatten", ["r"], ["f"]), proto.graph.node[4]]
    head = model(nodes, {"image": ["n", 3, "h", "w"]}, {"logits": ["n", 4]}, weights)
    explain(head, tmp_path, images)
    assert read_explainer(tmp_path / "explainer.onnx").fixed_size
