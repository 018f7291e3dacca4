"""Bare ONNX models as other tools write them, exported and compared with the plain one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from klieg import Explainer
from klieg.cli import main
from klieg.errors import ExportError, ImageError, OptionError
from klieg.explainer_file import read_explainer
from klieg.export import export_classifier

SIZE = 32
RGB = {"mean": [0.4, 0.5, 0.45], "std": [0.2, 0.25, 0.3]}
GREY = {"mean": [0.5], "std": [0.25]}


def convolutional(*, channels: int = 3) -> onnx.ModelProto:
    """Return image [n, c, h, w] -> Conv -> Relu -> mean over space -> Gemm -> logits [n, 4]."""
    random = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) / 3

    weights = {
        "w1": weight(6, channels, 3, 3), "b1": weight(6), "w2": weight(6, 4), "b2": weight(4),
    }  # fmt: skip
    nodes = [
        oh.make_node("Conv", ["image", "w1", "b1"], ["c"], strides=[4, 4], pads=[1] * 4),
        oh.make_node("Relu", ["c"], ["r"]),
        oh.make_node("GlobalAveragePool", ["r"], ["p"]),
        oh.make_node("Flatten", ["p"], ["f"]),
        oh.make_node("Gemm", ["f", "w2", "b2"], ["logits"]),
    ]
    return model(nodes, {"image": ["n", channels, "h", "w"]}, {"logits": ["n", 4]}, weights)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    weights: dict[str, np.ndarray],
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = oh.make_graph(
        nodes, "g",
        [oh.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [oh.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)


def explain(
    proto: onnx.ModelProto, folder: Path, images: np.ndarray, **options: Any
) -> dict[str, np.ndarray]:
    """Export, run images [B, C, H, W] in 0..255 for class 2, and return the outputs."""
    path = folder / "explainer.onnx"
    report = export_classifier(
        proto, path, input_size=SIZE, methods=["saliency"], **{**RGB, **options}
    )
    assert max(report.parity.values()) < 1e-3
    session = onnxruntime.InferenceSession(path.read_bytes())
    names = [output.name for output in session.get_outputs()]
    targets = np.full(len(images), 2, dtype=np.int64)
    return dict(zip(names, session.run(None, {"image": images, "target": targets}), strict=True))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 255, (2, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return explain(convolutional(), tmp_path_factory.mktemp("plain"), images)


def same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, rtol: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(got[name], value, atol=rtol * scale, err_msg=name)


def channels_last() -> onnx.ModelProto:
    """Return the same classifier with channels last outside and at its last feature map."""
    proto = convolutional()
    nodes = list(proto.graph.node)
    nodes[0].input[0] = "first"
    front = oh.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2])
    turn = oh.make_node("Transpose", ["r"], ["last"], perm=[0, 2, 3, 1])
    mean = oh.make_node("ReduceMean", ["last", "axes"], ["f"], keepdims=0)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    return model(
        [front, *nodes[:2], turn, mean, nodes[4]],
        {"image": ["n", "h", "w", 3]}, {"logits": ["n", 4]},
        {**weights, "axes": np.array([1, 2])},
    )  # fmt: skip


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
        list(proto.graph.node), {"image": ["n", 3, "h", "w"]}, {"logits": ["n", 4]}, halves,
        TensorProto.FLOAT16,
    )  # fmt: skip
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


def with_metadata_inputs() -> onnx.ModelProto:
    """Return the classifier with an age [n, 1] added to its features, and a flag."""
    proto = convolutional()
    proto.graph.input.extend(
        [
            oh.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1]),
            oh.make_tensor_value_info("scale", TensorProto.INT64, []),
        ]
    )
    nodes = list(proto.graph.node)
    nodes[4].input[0] = "scaled"
    nodes[4:4] = [
        oh.make_node("Concat", ["f", "age"], ["joined"], axis=1),
        oh.make_node("Slice", ["joined", "zero", "six", "one"], ["cut"]),
        oh.make_node("Cast", ["scale"], ["factor"], to=1),
        oh.make_node("Mul", ["cut", "factor"], ["scaled"]),
    ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    for name, number in (("zero", 0), ("six", 6), ("one", 1)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    return proto


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


def two_views() -> onnx.ModelProto:
    """Return a classifier of two images with two heads."""
    proto = convolutional()
    proto.graph.input.append(
        oh.make_tensor_value_info("depth", TensorProto.FLOAT, ["n", 3, "h", "w"])
    )
    proto.graph.node[0].input[0] = "both"
    nodes = [
        oh.make_node("Add", ["image", "depth"], ["both"]),
        *proto.graph.node,
        oh.make_node("Neg", ["logits"], ["opposite"]),
    ]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.output.append(oh.make_tensor_value_info("opposite", TensorProto.FLOAT, ["n", 4]))
    return proto


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


class Tokens(torch.nn.Module):
    """A small vision transformer."""

    def __init__(self, *, extra: int, any_size: bool) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, 8)
        self.extra = torch.nn.Parameter(torch.randn(1, extra, 8)) if extra else None
        places = (SIZE // 8) ** 2 + extra
        self.places = None if any_size else torch.nn.Parameter(torch.randn(1, places, 8))
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.head = torch.nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        if self.extra is not None:
            tokens = torch.cat([self.extra.expand(images.shape[0], -1, -1), tokens], dim=1)
        if self.places is not None:
            tokens = tokens + self.places
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0] if self.extra is not None else tokens.mean(dim=1))


@pytest.mark.parametrize(("extra", "any_size"), [(1, False), (2, False), (0, True), (1, True)])
def test_tokens(extra: int, any_size: bool, images: np.ndarray, tmp_path: Path) -> None:
    """The default layer is the last one whose cells matter: the input of the last attention."""
    torch.manual_seed(0)
    net = Tokens(extra=extra, any_size=any_size).eval()
    report = export_classifier(net, tmp_path / "x.onnx", input_size=SIZE, **RGB)
    if extra:
        assert report.layer == "blocks.1.norm1"
    assert report.fixed_size != any_size
    assert report.parity["gradient"] < 1e-5
    facts = read_explainer(tmp_path / "x.onnx").facts
    cells = ("rows", "columns") if any_size else (4, 4)
    assert facts.outputs["activation"].shape == ("batch", 8, *cells)
