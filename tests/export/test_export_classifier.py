"""From classifiers in torch and ONNX to explainer files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime
import pytest
import torch

from helpers.bare_models import traced
from helpers.running import noise, outputs
from helpers.small_net import MEAN, NAMES, STD, small_net
from klieg.errors import ExportError, OptionError, UnsupportedOperatorError
from klieg.export import export_classifier
from klieg.export.classifier import default_scales
from klieg.export.instrument.outputs import BACKWARD
from klieg.model_file.explainer_file import read_explainer
from klieg.model_file.methods import METHODS


def answers(path: Path, size: tuple[int, int] = (32, 32), batch: int = 2) -> dict[str, np.ndarray]:
    return outputs(path, {"image": noise(batch, *size), "target": np.arange(batch) % 5})


def test_report_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = export_classifier(
        small_net(), path, input_size=32, mean=MEAN, std=STD, class_names=NAMES
    )
    file = read_explainer(path)
    assert report.layer == file.info.layer == "features"
    assert not report.fixed_size
    assert not file.fixed_size
    assert report.parity == file.info.parity
    assert set(report.parity) == {"logits", "activation", "gradient"}
    assert max(report.parity.values()) < 1e-5
    assert report.nodes_after > report.nodes_before
    assert file.info.input_size == 32
    assert file.info.scales == default_scales(32)
    assert file.info.class_names == tuple(NAMES)
    assert len(file.info.source_sha256) == 64
    assert file.info.versions["klieg"]
    assert file.facts.opset == 18
    onnx.checker.check_model(onnx.load(path), full_check=True)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_more_methods(kind: str, bare: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = small_net() if kind == "torch" else bare
    report = export_classifier(
        model,
        path,
        input_size=32,
        mean=MEAN,
        std=STD,
        methods=["saliency", "contrastive_excitation"],
    )
    assert report.outputs == ("logits", "activation", "gradient", "image_gradient", "contrast")
    assert set(read_explainer(path).outputs) == set(report.outputs)
    assert {"rise", "gradcam", "smoothgrad", "contrastive_excitation"} < set(report.methods)
    assert not {"guided_backprop", "deconvnet", "excitation_backprop"} & set(report.methods)
    assert 0 < report.parity["image_gradient"] < 1e-5
    out = answers(path)
    assert out["image_gradient"].shape == (2, 3, 32, 32)
    assert out["contrast"].shape == (2, 16, 4, 4)


def test_all_methods(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = export_classifier(
        small_net(), path, input_size=32, mean=MEAN, std=STD, methods=["all"]
    )
    assert set(report.methods) == set(METHODS) - {"casm"}  # needs a masking model
    assert set(report.outputs) == {"logits", "activation", *BACKWARD}


def test_image_gradient_is_per_grey_level(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export_classifier(small_net(), path, input_size=32, mean=MEAN, std=STD, methods=["saliency"])
    session = onnxruntime.InferenceSession(path.read_bytes())
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 32, 32)).astype(np.float32)

    def run(name: str, where: np.ndarray) -> np.ndarray:
        feeds = {"image": where, "target": np.array([1])}
        return session.run([name], feeds)[0]

    gradient = run("image_gradient", image)
    step = 0.5 * np.sign(gradient)  # grey levels
    rise = run("logits", image + step)[0, 1] - run("logits", image - step)[0, 1]
    assert rise == pytest.approx(np.abs(gradient).sum(), rel=0.05)


def test_default_layer_is_what_the_global_pool_reads(small_explainer: Path) -> None:
    out = answers(small_explainer, (40, 64))
    assert out["activation"].shape == (2, 16, 5, 8)
    assert out["activation"].min() == 0  # behind the last Relu
    assert out["gradient"].shape == (2, 16, 1, 1)  # the same everywhere: kept small
    net = small_net()
    expected = net.head.weight.detach().numpy()[[0, 1]] / 40
    np.testing.assert_allclose(out["gradient"][:, :, 0, 0], expected, rtol=1e-5)


def test_earlier_layer_equals_autograd(tmp_path: Path) -> None:
    path = tmp_path / "early.onnx"
    report = export_classifier(
        small_net(), path, layer="features.3", input_size=32, mean=MEAN, std=STD
    )
    assert report.layer == "features.3"
    assert 0 < report.parity["gradient"] < 1e-5
    assert answers(path)["gradient"].shape == (2, 8, 8, 8)


def test_published_sizes() -> None:
    assert default_scales(224) == (224, 324, 424, 524, 624, 724, 824, 924)


def test_fixed_size_head_says_so(tmp_path: Path) -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 8 * 8, 5),
    )
    report = export_classifier(net, tmp_path / "f.onnx", input_size=32, mean=MEAN, std=STD)
    file = read_explainer(tmp_path / "f.onnx")
    assert report.fixed_size
    assert file.fixed_size
    assert file.info.scales == (32,)
    assert file.facts.inputs["image"].shape == ("batch", 3, 32, 32)


def test_adaptive_pool_to_a_grid_takes_any_size(tmp_path: Path) -> None:
    report = export_classifier(
        small_net(pooled=False), tmp_path / "g.onnx", input_size=32, mean=MEAN, std=STD
    )
    assert not report.fixed_size
    assert report.layer == "features"  # not the grid, which is 3 x 3 at every size
    assert answers(tmp_path / "g.onnx", (56, 41))["gradient"].shape == (2, 16, 7, 6)


@pytest.mark.parametrize("tail", [None, "Softmax", "LogSoftmax", "Sigmoid"])
def test_bare_onnx(tail: str | None, tmp_path: Path, small_explainer: Path) -> None:
    model = traced(small_net(), tail=tail)
    path = tmp_path / "bare.onnx"
    report = export_classifier(model, path, input_size=32, mean=MEAN, std=STD)
    assert set(report.parity) == {"logits", "gradient"}
    assert max(report.parity.values()) < 1e-5
    truth, got = answers(small_explainer), answers(path)
    for name, value in truth.items():
        np.testing.assert_allclose(got[name], value, atol=1e-5)
    expected = "sigmoid" if tail == "Sigmoid" else "softmax"
    assert read_explainer(path).info.probability == expected


def test_bare_onnx_from_a_file_with_a_named_layer(bare: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(bare, tmp_path / "bare.onnx")
    pool = next(node for node in bare.graph.node if node.op_type == "MaxPool")
    for layer in (pool.output[0], pool.name):
        report = export_classifier(
            tmp_path / "bare.onnx",
            tmp_path / "e.onnx",
            layer=layer,
            input_size=32,
            mean=MEAN,
            std=STD,
        )
        assert report.layer == pool.output[0]
        assert answers(tmp_path / "e.onnx")["gradient"].shape == (2, 8, 8, 8)


def test_model_with_reserved_names(bare: onnx.ModelProto, tmp_path: Path) -> None:
    text = bare.SerializeToString().replace(b"pixels", b"target").replace(b"scores", b"images")
    model = onnx.load_from_string(text)
    export_classifier(model, tmp_path / "e.onnx", input_size=32, mean=MEAN, std=STD)
    assert set(answers(tmp_path / "e.onnx")) == {"logits", "activation", "gradient"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mean": [0.5] * 3, "std": [0.5]}, OptionError, "3 means and 1 stds"),
        ({"mean": [127] * 3, "std": [128] * 3}, OptionError, "0..1 units"),
        ({"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, OptionError, "0..1 units"),
        ({"class_names": ["a", "b"]}, OptionError, "2 class names for 5 classes"),
        ({"class_names": "abcde"}, OptionError, "class names"),
        ({"input_size": 0}, OptionError, "input_size"),
        ({"layer": "featurez"}, ExportError, "did you mean.*features"),
        ({"methods": ["gradcan"]}, OptionError, "unknown method 'gradcan'"),
        ({"methods": "saliency"}, OptionError, "expected a list"),
        ({"methods": ["casm"]}, OptionError, "'casm' needs a masking model.*masker"),
        ({"methods": ["all", "casm"]}, OptionError, "'casm' needs a masking model.*masker"),
        ({"masker_name": "mine"}, OptionError, "'mine', but there is no masker"),
        ({"layer": "head"}, ExportError, r"returns \[1, 5\]"),
    ],
)
def test_impossible_options(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export_classifier(
            small_net(),
            tmp_path / "x.onnx",
            **{"input_size": 32, "mean": MEAN, "std": STD, **options},
        )
    assert not list(tmp_path.iterdir())


class TwoOutputs(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, images


def test_module_that_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected logits"):
        export_classifier(TwoOutputs(), tmp_path / "x.onnx", mean=MEAN, std=STD)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(ExportError, match="cannot read"):
            export_classifier(tmp_path / name, tmp_path / "x.onnx", mean=MEAN, std=STD)


def test_onnx_without_a_rule_on_the_path(bare: onnx.ModelProto, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(bare)
    last = next(node for node in model.graph.node if "scores" in node.output)
    last.output[0] = "before"
    model.graph.node.append(oh.make_node("Bernoulli", ["before"], ["scores"], name="odd_one"))
    with pytest.raises(UnsupportedOperatorError, match="odd_one"):
        export_classifier(model, tmp_path / "x.onnx", input_size=32, mean=MEAN, std=STD)


def test_onnx_of_another_size(tmp_path: Path) -> None:
    model = oh.make_model(
        oh.make_graph(
            [
                oh.make_node("GlobalAveragePool", ["x"], ["p"]),
                oh.make_node("Flatten", ["p"], ["y"]),
            ],
            "g",
            [oh.make_tensor_value_info("x", 1, ["n", 3, 32, 32])],
            [oh.make_tensor_value_info("y", 1, ["n", 3])],
        ),
        opset_imports=[oh.make_opsetid("", 18)],
    )
    with pytest.raises(ExportError, match="32 x 32 pixels only"):
        export_classifier(model, tmp_path / "x.onnx", input_size=224, mean=MEAN, std=STD)
    with pytest.raises(ExportError, match="channels"):
        export_classifier(model, tmp_path / "x.onnx", input_size=32, mean=[0.5], std=[0.5])


def test_module_is_left_alone(tmp_path: Path) -> None:
    net = small_net().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    export_classifier(net, tmp_path / "x.onnx", input_size=32, mean=MEAN, std=STD)
    assert net.training
    assert net.features[2].inplace
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
