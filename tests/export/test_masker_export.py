"""Masking models in explainer files: the mask is torch's, the classifier stays what it is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from helpers.running import noise, outputs
from helpers.small_masker import SmallMasker, small_masker
from helpers.small_net import MEAN, STD, lively_net, small_net
from klieg.errors import ExplainerFileError, ExportError, OptionError, ParityError
from klieg.export import export_classifier
from klieg.export.classifiers import torch_classifier
from klieg.export.inspection.tensorrt_lint import lint
from klieg.model_file.explainer_file import read_explainer
from klieg.model_file.methods import METHODS
from klieg.model_file.subgraph import subgraph

MIXED = ("features.3", "features.5", "features")


def export(path: Path, masker: Any, *, net: nn.Module | None = None, **options: Any) -> Any:
    return export_classifier(
        net or small_net(), path, input_size=32, mean=MEAN, std=STD, masker=masker, **options
    )


def run(data: bytes, image: np.ndarray, targets: Sequence[int]) -> dict[str, np.ndarray]:
    return outputs(data, {"image": image, "target": np.array(targets)})


def mask_in_torch(net: nn.Module, masker: SmallMasker, image: np.ndarray) -> np.ndarray:
    """Return the mask by hooks of the test's own."""
    seen: dict[str, torch.Tensor] = {}
    for tap in masker.taps:
        net.get_submodule(tap).register_forward_hook(
            lambda _m, _i, output, tap=tap: seen.update({tap: output.clone()})
        )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    height, width = image.shape[2:]
    with torch.no_grad():
        net((torch.from_numpy(image) / 255 - mean) / std)
        mask: torch.Tensor = masker([seen[tap] for tap in masker.taps], (height, width))
    return mask.numpy()


@cache
def session(mode: str, layer: str | None) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export(path, small_masker(MIXED, mode=mode), layer=layer)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # threads that spin would slow torch down in between
        data = subgraph(path.read_bytes(), ["logits", "mask"])
        return onnxruntime.InferenceSession(data, options)


@pytest.mark.parametrize(
    ("mode", "layer"),
    [("nearest", None), ("bilinear", "features.3"), ("nearest", "features.0")],
)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(batch=st.sampled_from([1, 2, 7]), height=st.integers(1, 130), width=st.integers(1, 130))
@example(batch=1, height=198, width=230)  # where ONNX Runtime's Resize takes other cells
def test_mask_equals_torch(
    mode: str, layer: str | None, batch: int, height: int, width: int
) -> None:
    image = noise(batch, height, width)
    feeds = {"image": image, "target": np.full(batch, -1)}
    _, mask = session(mode, layer).run(["logits", "mask"], feeds)
    assert mask.shape == (batch, 1, height, width)
    assert mask.dtype == np.float32
    expected = mask_in_torch(small_net(), small_masker(MIXED, mode=mode), image)
    np.testing.assert_allclose(mask, expected, atol=1e-5)


@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (7, 5)])
def test_nearest_cell_is_torchs_at_every_size(cells: tuple[int, int]) -> None:
    """Engines that compute the place of a pixel themselves take another cell at 82, 94, 110, ..."""
    source = torch.arange(float(np.prod(cells))).view(1, 1, *cells)
    for side in (*range(1, 130), 164, 188, 246, 924):
        plain = nn.functional.interpolate(source, size=(side, 2 * side), mode="nearest")
        with torch_classifier.traceable_enlargement():
            ours = nn.functional.interpolate(source, size=(side, 2 * side), mode="nearest")
        assert torch.equal(plain, ours)


def test_report_and_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = export(path, small_masker(), masker_name="CASM, 3 epochs", methods=["all"])
    assert set(report.methods) == set(METHODS)
    assert report.outputs[-1] == "mask"
    assert report.several_targets
    assert 0 < report.parity["mask"] < 1e-5
    file = read_explainer(path)
    assert file.info.masker == "CASM, 3 epochs"
    assert file.info.parity["mask"] == report.parity["mask"]
    assert file.facts.outputs["mask"].shape == ("batch", 1, "height", "width")
    assert lint(onnx.load(path)) == []
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_classifier_stays_what_it_is(tmp_path: Path) -> None:
    net, masker = small_net(), small_masker()
    before = [p.clone() for p in (*net.parameters(), *masker.parameters())]
    with_mask = export(tmp_path / "mask.onnx", masker.train(), net=net)
    without = export(tmp_path / "plain.onnx", None, net=net)
    assert masker.training
    after = (*net.parameters(), *masker.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    digests = {read_explainer(report.path).info.source_sha256 for report in (with_mask, without)}
    assert len(digests) == 1
    masked, plain = (report.path.read_bytes() for report in (with_mask, without))
    for image in (noise(2, 32, 32), noise(3, 41, 56)):
        targets = [1] * len(image)
        truth, got = run(plain, image, targets), run(masked, image, targets)
        assert set(got) == {*truth, "mask"}
        for name, value in truth.items():
            np.testing.assert_array_equal(got[name], value)
            np.testing.assert_array_equal(
                run(subgraph(masked, [name, "logits"]), image, targets)[name], value
            )
        alone = run(subgraph(masked, ["logits", "mask"]), image, targets)
        for name, value in alone.items():
            np.testing.assert_allclose(value, got[name], atol=1e-6)


@pytest.mark.parametrize("layer", [None, "features.5", "features.3", "features.0"])
def test_several_targets(layer: str | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = export(path, small_masker(MIXED), layer=layer)
    assert report.several_targets
    image = noise(2, 40, 32)
    one, three = (
        run(path.read_bytes(), image, targets) for targets in ([0, 1], [0, 1, 2, 1, 3, 4])
    )
    assert three["mask"].shape == (2, 1, 40, 32)
    np.testing.assert_allclose(three["mask"], one["mask"], atol=1e-6)
    assert np.abs(one["mask"][0] - one["mask"][1]).max() > 0.1


class Twice(nn.Module):
    """Calls one module twice, whose activation works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(self.stem(x))
        return self.head(self.body(x).mean(dim=(2, 3)))  # twice: the last call counts


def test_last_call_of_a_module_counts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Twice().eval()
    masker = SmallMasker(("stem", "body"), [8, 8], mode="bilinear").eval()
    path = tmp_path / "net.onnx"
    assert export(path, masker, net=net, layer="stem").several_targets
    image = noise(2, 37, 50)
    expected = mask_in_torch(net, masker, image)
    np.testing.assert_allclose(run(path.read_bytes(), image, [0] * 6)["mask"], expected, atol=1e-5)


def test_wrong_rows_of_several_targets_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from klieg.export.instrument.repeat import _Repeater

    monkeypatch.setattr(_Repeater, "first_of_each", lambda _self, value: value)
    assert not export(tmp_path / "net.onnx", small_masker(), layer="features.3").several_targets


def test_fixed_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 5)
    ).eval()
    masker = SmallMasker(("0", "1"), [8, 8], mode="nearest").eval()
    report = export(tmp_path / "net.onnx", masker, net=net)
    assert report.fixed_size
    assert "casm" in report.methods
    file = read_explainer(tmp_path / "net.onnx")
    assert file.facts.outputs["mask"].shape == ("batch", 1, 32, 32)
    image = noise(7, 32, 32)
    got = run(file.data, image, [0] * 7)["mask"]
    np.testing.assert_allclose(got, mask_in_torch(net, masker, image), atol=1e-5)


def test_wrong_mask_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = torch_classifier.TorchClassifier.to_onnx

    def other_weights(self: Any) -> onnx.ModelProto:
        traced = trace(self)
        with torch.no_grad():
            self.masker.head.merge.bias.add_(0.01)
        return traced

    monkeypatch.setattr(torch_classifier.TorchClassifier, "to_onnx", other_weights)
    with pytest.raises(ParityError, match="mask"):
        export(tmp_path / "net.onnx", small_masker())
    assert not list(tmp_path.iterdir())


class Changed(SmallMasker):
    """A head whose result something is done to."""

    def __init__(self, change: Any) -> None:
        super().__init__(("features",), [16], mode="nearest")
        self.change = change

    def forward(self, activations: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        return self.change(super().forward(activations, size))


def with_taps(*taps: str) -> SmallMasker:
    head = small_masker()
    head.taps = taps  # type: ignore[assignment]
    return head


@pytest.mark.parametrize(
    ("masker", "error", "message"),
    [
        (with_taps("features.7", "feature.5"), ExportError, "no tap.*'feature.5'.*'features.5'"),
        (with_taps("features.5", "head"), ExportError, r"'head' of the masker returns \[2, 5\]"),
        (with_taps(), OptionError, r"taps \(\)"),
        (object(), OptionError, "masker is object"),
        (Changed(lambda mask: mask * 3), ExportError, r"0\.\.1: let it end in a sigmoid"),
        (Changed(lambda mask: mask * np.nan), ExportError, "nan"),
        (Changed(lambda mask: mask[:, 0]), ExportError, r"expected float32 \[2, 1, 32, 32\]"),
        (Changed(lambda mask: mask[..., ::2]), ExportError, "enlarge it to `size`"),
        (Changed(lambda mask: mask.double()), ExportError, "float64"),
    ],
)
def test_what_is_no_masker(
    masker: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export(tmp_path / "net.onnx", masker)
    assert not list(tmp_path.iterdir())


def test_no_masker_for_onnx(bare: onnx.ModelProto, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="torch modules"):
        export(tmp_path / "net.onnx", small_masker(), net=bare)  # type: ignore[arg-type]


def test_model_with_the_reserved_name(tmp_path: Path, bare: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(bare)
    model.graph.input[0].name = "mask"
    for node in model.graph.node:
        node.input[:] = ["mask" if name == "pixels" else name for name in node.input]
    export_classifier(model, tmp_path / "net.onnx", input_size=32, mean=MEAN, std=STD)
    assert read_explainer(tmp_path / "net.onnx").outputs == {"logits", "activation", "gradient"}


@pytest.mark.parametrize("shape", [["batch", "height", "width"], ["batch", 2, "height", "width"]])
def test_damaged_mask(shape: list[int | str], small_explainer_all: Path, tmp_path: Path) -> None:
    model = onnx.load(small_explainer_all)
    (output,) = [o for o in model.graph.output if o.name == "mask"]
    output.CopyFrom(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, shape))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ExplainerFileError, match="mask"):
        read_explainer(tmp_path / "net.onnx")


def test_masks_differ_from_image_to_image() -> None:
    mask = mask_in_torch(lively_net(), small_masker(), noise(2, 64, 64))
    assert np.abs(mask[0] - mask[1]).max() > 0.1
