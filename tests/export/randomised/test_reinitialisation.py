"""Explainer files with re-initialised weights: gradients of the new ones, nothing else touched."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch

from helpers.running import noise, outputs
from helpers.small_net import MEAN, STD, SmallNet
from klieg import Explainer
from klieg.errors import ExportError
from klieg.export import export_classifier
from klieg.export.derived_weights import NOTE, derived_weights
from klieg.export.parity.finite_differences import gradient_error
from klieg.export.random_images import Probes
from klieg.export.randomised.reinitialisation import layers, reinitialised, save

nn = torch.nn

Models = Callable[[type[nn.Module]], onnx.ModelProto]
PROBES = Probes([32], channels=3, classes=5)
FEEDS = {"image": noise(2, seed=1), "target": np.array([1, 3])}
METHODS = ["saliency", "guided_backprop", "deconvnet", "excitation_backprop"]


class Residual(nn.Module):
    """Batch normalisation folded into convolutions and not, groups, a shortcut with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.before = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, 2, 1, groups=4)
        self.shortcut = nn.Conv2d(8, 12, 1, 2, bias=False)
        self.head = nn.Linear(12, 5)
        torch.manual_seed(0)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                for tensor in (part.weight, part.bias, part.running_mean):
                    nn.init.uniform_(tensor, -1, 1)
                nn.init.uniform_(part.running_var, 0.5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(images))
        x = torch.relu(x + self.inner(x))
        x = self.grouped(torch.relu(self.before(x))) + self.shortcut(x)
        return self.head(torch.relu(x).mean((2, 3)))


class Tokens(nn.Module):
    """A transformer: positions, attention, layer normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 16, 16) / 9)
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)
        for part in (self.block.norm1, self.block.norm2, self.norm):
            nn.init.uniform_(part.weight, 0.5, 1.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.block(x)).mean(1))


class Plain(nn.Module):
    """Without normalisation, so that drawn weights can be put back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, 1, 1, groups=6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, 2, 1),
            nn.ReLU(),
        )
        self.hidden = nn.Linear(8, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.features(images).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def exported(net: nn.Module, folder: Path, **options: object) -> onnx.ModelProto:
    path = folder / "net.onnx"
    export_classifier(net.eval(), path, input_size=32, mean=MEAN, std=STD, **options)
    return onnx.load(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Each net exported once, with the gradient by the image."""

    @functools.cache
    def of(net: type[nn.Module]) -> onnx.ModelProto:
        return exported(net(), tmp_path_factory.mktemp("models"), methods=["saliency"])

    return of


def contents(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


@pytest.mark.parametrize("net", [SmallNet, Residual, Tokens])
def test_gradients_are_those_of_the_new_logits(net: type[nn.Module], models: Models) -> None:
    model = models(net)
    original = outputs(model, FEEDS)
    found = layers(model)
    for chosen in (found, found[1:3]):
        drawn = reinitialised(model, chosen, seed=3)
        changed = outputs(drawn, FEEDS)
        assert np.abs(changed["logits"] - original["logits"]).max() > 1e-3
        for wrt, gradient in (("image", "image_gradient"), ("activation", "gradient")):
            error = gradient_error(drawn, PROBES, gradient=gradient, wrt=wrt)
            assert error < 1e-4  # central differences in float64; a stale constant is off by 0.1


def test_stale_constants_would_be_seen(models: Models) -> None:
    """The slope of the batch normalisation is a constant; left alone, the gradient is wrong."""
    model = models(Residual)
    (slope,) = derived_weights(model)
    drawn = reinitialised(model, layers(model), seed=3)
    stale = contents(model)[slope]
    for tensor in drawn.graph.initializer:
        if tensor.name == slope:
            tensor.CopyFrom(onnx.numpy_helper.from_array(stale, slope))
    error = gradient_error(drawn, PROBES, gradient="image_gradient", wrt="image")
    assert error > 0.05


def test_every_output_equals_a_fresh_export(tmp_path: Path) -> None:
    """Put the drawn weights into the torch module and export that: also excitation, guided, ..."""
    net = Plain()
    model = exported(net, tmp_path, layer="features.0", methods=METHODS)
    assert len(derived_weights(model)) >= 3  # rectified copies of weights behind the layer
    drawn = reinitialised(model, layers(model), seed=5)
    values = contents(drawn)
    state = net.state_dict()
    assert {f"module.{name}" for name in state} <= set(values)
    net.load_state_dict({name: torch.from_numpy(values[f"module.{name}"].copy()) for name in state})
    fresh = outputs(exported(net, tmp_path, layer="features.0", methods=METHODS), FEEDS)
    got = outputs(drawn, FEEDS)
    assert got.keys() == fresh.keys()
    for name, want in fresh.items():
        size = np.abs(want).max()
        assert size > 0
        np.testing.assert_allclose(got[name], want, atol=1e-5 * size, rtol=0)  # order of sums


def test_layers_and_what_they_own(models: Models) -> None:
    found = layers(models(Residual))
    owned = [(layer.name, [weight.name for weight in layer.weights]) for layer in found]
    assert [name for name, _ in owned[:1]] == ["head"]
    assert {name for name, _ in owned[1:3]} == {"shortcut", "grouped"}  # two branches
    assert [name for name, _ in owned[3:]] == ["before", "inner.0", "stem.0"]
    assert owned[0][1] == ["module.head.weight", "module.head.bias"]
    assert owned[3][1] == ["module.before.weight", "module.before.bias"]  # no running statistics
    fans = {weight.name: weight.fan for layer in found for weight in layer.weights}
    assert fans["module.grouped.weight"] == 12 // 4 * 9
    assert fans["module.head.weight"] == 12
    assert fans["module.head.bias"] == 5


def test_a_transformer_in_order(models: Models) -> None:
    found = layers(models(Tokens))
    kinds = [tuple(weight.spread for weight in layer.weights) for layer in found]
    matrix, norm = (True, False), (False, False)
    # head, norm | linear2, linear1, norm2 | out_proj, in_proj, norm1 | patch; biases of zeros are
    # one initialiser, so the vector of out_proj may stand elsewhere.
    assert [kind[0] for kind in kinds] == [
        True,
        False,
        True,
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert kinds[0] == matrix
    assert kinds[1][:1] == norm[:1]
    fans = [layer.weights[0].fan for layer in found if layer.weights[0].spread]
    assert fans == [16, 32, 16, 16, 16, 16 * 64]  # inputs of matrices, whichever way they lie
    drawn = contents(reinitialised(models(Tokens), found))
    positions = Tokens().positions.detach().numpy()
    assert any(one.shape == positions.shape and (one == positions).all() for one in drawn.values())


def test_the_masker_and_the_normalisation_stay(small_explainer_all: Path) -> None:
    model = onnx.load(small_explainer_all)
    before, after = contents(model), contents(reinitialised(model, layers(model)))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    parts = ("features.0", "features.4", "features.6", "head")
    assert changed == {f"module.{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_draws_depend_on_name_and_seed_alone(small_explainer: Path) -> None:
    model = onnx.load(small_explainer)
    found = layers(model)
    whole, one = (contents(reinitialised(model, part, seed=2)) for part in (found, found[2:3]))
    other = contents(reinitialised(model, found, seed=3))
    for weight in found[2].weights:
        np.testing.assert_array_equal(whole[weight.name], one[weight.name])
        assert (whole[weight.name] != other[weight.name]).all()
    untouched = found[0].weights[0].name
    np.testing.assert_array_equal(one[untouched], contents(model)[untouched])


def test_draws_have_the_stated_spread(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, groups=64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 400),
    )
    model = exported(net, tmp_path)
    drawn = contents(reinitialised(model, layers(model)))
    spread = {"0": 2 / (64 * 9), "2": 2 / 9, "6": 2 / 64}
    for name, variance in spread.items():
        values = drawn[f"module.{name}.weight"]
        # The relative error of a variance of n >= 576 draws is sqrt(2 / n) <= 0.06: four of these.
        assert np.square(values).mean() == pytest.approx(variance, rel=0.24)
    bias = drawn["module.6.bias"]
    assert 0.95 / 20 < np.abs(bias).max() <= 1 / 20


def test_a_file_that_opens(small_explainer: Path, tmp_path: Path) -> None:
    model = onnx.load(small_explainer)
    path = tmp_path / "new" / "drawn.onnx"
    save(reinitialised(model, layers(model)), path)
    photo = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), dtype=np.uint8)
    with Explainer(small_explainer) as before, Explainer(path) as after:
        assert after.info == before.info
        one, other = (explainer.explain(photo) for explainer in (before, after))
    assert np.abs(one.logits - other.logits).max() > 1e-3
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_done_is_refused(small_explainer: Path) -> None:
    model = onnx.load(small_explainer)
    del model.graph.node[:]
    with pytest.raises(ExportError, match="found no weights"):
        layers(model)
    quantised = onnx.load(small_explainer)
    for tensor in quantised.graph.initializer:
        if tensor.name == "module.head.weight":
            tensor.data_type = onnx.TensorProto.INT32
    with pytest.raises(ExportError, match=r"module\.head\.weight.*quantised"):
        layers(quantised)


def test_equal_constants_of_two_weights_are_told_apart(tmp_path: Path) -> None:
    """Where scales are all positive, the signs of each are a constant of ones."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    nn.init.constant_(net[2].weight, 0.7)
    nn.init.constant_(net[4].weight, 0.9)
    model = exported(net, tmp_path, layer="0", methods=["excitation_backprop"])
    signs = {
        derived.sources: name
        for name, derived in derived_weights(model).items()
        if derived.rule == "positive"
    }
    assert signs.keys() == {("module.2.weight",), ("module.4.weight",)}
    drawn = contents(reinitialised(model, layers(model)))
    for (weight,), name in signs.items():
        assert 0 < drawn[name].mean() < 1
        np.testing.assert_array_equal(drawn[name].ravel(), drawn[weight] > 0)


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (None, "older klieg.*export the model again"),
        ('["positive"]', "malformed"),
        ('{"gradient/constant": 1}', "malformed"),
        ('{"gradient/constant": ["positive", ["module.head.bias"], 0.0]}', "does not fit"),
        ('{"module.head.bias": ["tripled", ["module.head.bias"], 0.0]}', "does not fit"),
    ],
)
def test_a_file_without_a_fitting_note_is_refused(
    small_explainer: Path, note: str | None, expected: str
) -> None:
    model = onnx.load(small_explainer)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata.pop(NOTE) == "{}"
    onnx.helper.set_model_props(model, metadata if note is None else {**metadata, NOTE: note})
    with pytest.raises(ExportError, match=expected):
        reinitialised(model, layers(model))


def test_neither_torch_nor_onnx_ir_is_needed() -> None:
    code = (
        "import sys, klieg.export.randomised.reinitialisation; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'onnx_ir', 'onnxscript')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
