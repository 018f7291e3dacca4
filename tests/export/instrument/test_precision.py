"""Explainers in float16 and bfloat16: which operators, how near to float32, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from helpers.bare_models import convolutional
from helpers.mixed_precision import FEEDS, FLOATS, LOWER, UNIT, bare, typed
from helpers.running import outputs
from helpers.small_masker import small_masker
from helpers.small_net import MEAN, NAMES, STD, small_net
from klieg import Explainer
from klieg.cli.inspect import inspect
from klieg.errors import ExplainerFileError, ParityError
from klieg.export import classifier, export_classifier
from klieg.export.derived_weights import derived_weights
from klieg.export.instrument.precision import (
    FLOAT32,
    HEAVY,
    MOVES,
    PRECISIONS,
    backward_nodes,
    forward_nodes,
    to_mixed_precision,
)
from klieg.export.parity.original import relative_error
from klieg.export.parity.precision import against_float32, emulated
from klieg.export.random_images import Probes
from klieg.model_file.explainer_file import read_explainer


@pytest.fixture(scope="module")
def original(small_explainer_all: Path) -> onnx.ModelProto:
    """A SmallNet with every output, a mask among them, in float32."""
    return onnx.load(small_explainer_all)


def stored(proto: onnx.ModelProto) -> int:
    """Return the bytes of all weights."""
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


@pytest.mark.parametrize("precision", LOWER)
def test_which_operators_are_low(original: onnx.ModelProto, precision: str) -> None:
    graph = typed(to_mixed_precision(original, precision))
    forward, backward = forward_nodes(graph), backward_nodes(graph)
    found = set()
    for node in graph:
        types = {v.dtype for v in (*node.inputs, *node.outputs) if v is not None} & FLOATS
        if node.op_type == "Cast":
            continue
        assert len(types) <= 1, f"{node.name} mixes {types}"
        low = types == {PRECISIONS[precision]}
        if node.op_type in FLOAT32 or (node in backward and node.op_type not in MOVES):
            assert not low, node.name
        elif node.op_type in HEAVY:
            assert low == (node in forward), node.name
        if low:
            found.add(node.op_type)
    assert found > {"Conv", "Gemm", "Relu", "Clip", "MaxPool"}
    for value in (*graph.inputs, *graph.outputs):
        assert value.dtype == (ir.DataType.INT64 if value.name == "target" else ir.DataType.FLOAT)


@pytest.mark.parametrize("precision", LOWER)
def test_weights_are_stored_once_in_half_the_bytes(
    original: onnx.ModelProto, precision: str
) -> None:
    low = to_mixed_precision(original, precision)
    large = [t for t in low.graph.initializer if np.prod(t.dims) >= 8 and t.data_type != 7]
    assert {t.data_type for t in large if len(t.dims) > 1 and max(t.dims) > 3} == {
        int(PRECISIONS[precision])
    }
    names = {tensor.name for tensor in original.graph.initializer}
    assert {t.name for t in large} <= names, "a test of randomisation finds them by their names"
    # Shapes (int64) and the image's statistics stay.
    assert stored(low) < 0.6 * stored(original)


@pytest.mark.parametrize("precision", LOWER)
def test_outputs_are_near_those_of_float32(original: onnx.ModelProto, precision: str) -> None:
    low = to_mixed_precision(original, precision)
    truth, got = outputs(original, FEEDS), outputs(emulated(low), FEEDS)
    for name, value in truth.items():
        assert got[name].dtype == np.float32
        assert got[name].shape == value.shape
        # Rounded Relus change sides, which a few cells of a gradient at the image show.
        steps = 40 if "gradient" in name else 4
        assert relative_error(got[name], value) < steps * UNIT[precision], name
        assert relative_error(got[name], value) > 0.01 * UNIT[precision], f"{name} is not rounded"
    probes = Probes([32, 40], channels=3, classes=5)
    errors = against_float32(low, original, probes, precision=precision)
    assert errors.keys() == {f"{name}_{precision}" for name in truth}


def test_onnx_runtime_takes_float16_as_it_is(original: onnx.ModelProto) -> None:
    low = to_mixed_precision(original, "float16")
    rounded, got = outputs(emulated(low), FEEDS), outputs(low, FEEDS)
    for name in ("logits", "activation", "gradient", "mask"):
        # It rounds less often than the graph says.
        assert relative_error(got[name], rounded[name]) < 2 * UNIT["float16"]


def test_constants_that_follow_from_weights_stay_noted(tmp_path: Path) -> None:
    """Constants that follow from weights must be rounded alike, and stay noted."""
    export_classifier(
        small_net(),
        tmp_path / "early.onnx",
        input_size=32,
        mean=MEAN,
        std=STD,
        layer="features.3",
        methods=["excitation_backprop"],
    )
    early = onnx.load(tmp_path / "early.onnx")
    for precision in LOWER:
        low = to_mixed_precision(early, precision)
        stored = {one.name: numpy_helper.to_array(one) for one in low.graph.initializer}
        noted = derived_weights(low)
        assert noted == derived_weights(early)
        assert noted
        for name, derived in noted.items():
            expected = derived.computed([stored[source] for source in derived.sources])
            np.testing.assert_array_equal(stored[name], expected)


def correlations(
    first: Path, second: Path, photos: list[np.ndarray], **options: Any
) -> list[float]:
    maps = []
    for path in (first, second):
        with Explainer(path) as explainer:
            maps.append(explainer.explain(photos, target=[1] * len(photos), **options).maps)
    return [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(*maps, strict=True)]


def test_maps_of_a_small_net(
    small_explainer_all: Path, photos: list[np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "low.onnx"
    low = to_mixed_precision(onnx.load(small_explainer_all), "float16")
    onnx.save(emulated(low), path)
    assert min(correlations(small_explainer_all, path, photos)) >= 0.999
    onnx.save(low, path)
    assert min(correlations(small_explainer_all, path, photos)) >= 0.999


def test_maps_of_efficientnet_lite0(
    lite0_explainer: Path, photos: list[np.ndarray], tmp_path: Path
) -> None:
    original = onnx.load(lite0_explainer)
    # On 100 photos of COCO the least correlations were 0.9999 and 0.991.
    for precision, least in (("float16", 0.999), ("bfloat16", 0.99)):
        low = to_mixed_precision(original, precision)
        assert low.ByteSize() < 0.51 * original.ByteSize()
        onnx.save(emulated(low), tmp_path / "low.onnx")
        found = correlations(lite0_explainer, tmp_path / "low.onnx", photos[:2], scales=[224, 424])
        assert min(found) >= least


@pytest.mark.parametrize("precision", LOWER)
def test_export(precision: Any, tmp_path: Path) -> None:
    path = tmp_path / "low.onnx"
    report = export_classifier(
        small_net(),
        path,
        input_size=32,
        mean=MEAN,
        std=STD,
        class_names=NAMES,
        methods=["all"],
        masker=small_masker(),
        precision=precision,
    )
    assert report.parity["logits"] < 1e-5, "the float32 graph is held against torch as ever"
    assert 0 < report.parity[f"logits_{precision}"] < 4 * UNIT[precision]
    file = read_explainer(path)
    assert file.info.precision == precision
    assert file.facts.opset == (18 if precision == "float16" else 22)
    assert file.several_targets
    shown = CliRunner().invoke(inspect, [str(path)])
    assert f"precision {precision}" in " ".join(shown.output.split())
    if precision == "float16":
        photo = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        with Explainer(path) as explainer:
            for method in ("cameras", "saliency", "excitation_backprop"):
                assert explainer.explain([photo], method=method, target=1).maps.max() > 0
            assert explainer.explain([photo], method="casm").maps.max() > 0


def test_float32_changes_nothing(original: onnx.ModelProto, small_explainer: Path) -> None:
    assert to_mixed_precision(original, "float32") is original
    assert read_explainer(small_explainer).info.precision == "float32"


def test_older_files_are_float32(original: onnx.ModelProto, tmp_path: Path) -> None:
    properties = {p.key: p.value for p in original.metadata_props}
    del properties["klieg.precision"]
    old = onnx.ModelProto()
    old.CopyFrom(original)
    onnx.helper.set_model_props(old, properties)
    onnx.save(old, tmp_path / "old.onnx")
    assert read_explainer(tmp_path / "old.onnx").info.precision == "float32"
    onnx.helper.set_model_props(old, properties | {"klieg.precision": '"float8"'})
    onnx.save(old, tmp_path / "new.onnx")
    with pytest.raises(ExplainerFileError, match="'float8', expected float32 or float16 or bfloat"):
        read_explainer(tmp_path / "new.onnx")


def scaled_gradient(low: onnx.ModelProto) -> None:
    """Leave a factor of 2 in the gradient at the image."""
    (node,) = [node for node in low.graph.node if "image_gradient" in node.output]
    node.output[0] = "before"
    low.graph.node.append(oh.make_node("Add", ["before", "before"], ["image_gradient"]))


def without_relu(low: onnx.ModelProto) -> None:
    """Leave out the last Relu of the forward pass."""
    next(node for node in low.graph.node if node.op_type == "Relu").op_type = "Identity"


def without_bias(low: onnx.ModelProto) -> None:
    """Leave out the bias of the first convolution."""
    next(node for node in low.graph.node if node.op_type == "Conv").input.pop()


def other_weights(low: onnx.ModelProto) -> None:
    """Alter one weight by a hundredth."""
    (weight,) = [tensor for tensor in low.graph.initializer if tensor.name == "w1"]
    content = numpy_helper.to_array(weight).copy()
    content[0, 0, 0, 0] += abs(content).max() / 100
    weight.CopyFrom(numpy_helper.from_array(content, "w1"))


@pytest.mark.parametrize("precision", LOWER)
@pytest.mark.parametrize("damage", [scaled_gradient, without_relu, without_bias, other_weights])
def test_a_damaged_graph_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, damage: Any
) -> None:
    def damaged(*arguments: Any) -> onnx.ModelProto:
        low = to_mixed_precision(*arguments)
        damage(low)
        return low

    monkeypatch.setattr(classifier, "to_mixed_precision", damaged)
    with pytest.raises(
        ParityError, match=rf"in {precision} (the explainer disagrees|are not those)"
    ):
        bare(tmp_path, convolutional(), precision=precision)
    assert not list(tmp_path.iterdir())
