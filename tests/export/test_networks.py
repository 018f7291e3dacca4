"""Published architectures against torch autograd and TensorRT's builder.

Each is traced once, at a small image size, and its tests follow one another: the trace is what
takes time. All of it always runs. docs/networks.md has the same at full size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klieg import Explainer
from klieg.export import export_classifier
from klieg.export.random_images import random_images
from klieg.export.session import Session
from klieg.model_file.explainer_file import read_explainer
from networks.architectures import NETWORKS, Network, build
from networks.graphs import CHANNELS, MEAN, STD, NetworkGraphs

DEFAULT_LAYERS = {
    "resnet50": "layer4",
    "vgg16": "features",
    "densenet121": "features",
    "inception_v3": "Mixed_7c",
    "googlenet": "inception5b",
    "alexnet": "features",
    "squeezenet1_1": "classifier.2",
    "mobilenet_v2": "features",
    "mobilenet_v3_large": "features",
    "efficientnet_b0": "features",
    "efficientnet-lite0": "_swish",
    "regnet_y_400mf": "trunk_output",
    "shufflenet_v2_x1_0": "conv5",
    "convnext_tiny": "features",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",  # the last whose cells all matter
    "swin_t": "permute",
}

KINKS = {
    # A Relu within rounding of 0 puts torch's float32 and ONNX Runtime's on different sides, which
    # changes a receptive field's gradient though both are right; float64 decides.
    "resnet50",
    "densenet121",
    "googlenet",
    "regnet_y_400mf",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "inception_v3",
    "shufflenet_v2_x1_0",
    "efficientnet-lite0",
    "squeezenet1_1",
    "vgg16",
    "alexnet",
}
SMOOTH = {network.name for network in NETWORKS} - KINKS


LONG = {"vgg16", "alexnet", "densenet121", "inception_v3"}
"""Minutes, and of a kind that others show as well."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(network, marks=[pytest.mark.long] if network.name in LONG else [])
        for network in NETWORKS
    ],
    ids=lambda network: network.name,
)
def graphs(request: pytest.FixtureRequest) -> NetworkGraphs:
    network: Network = request.param
    return NetworkGraphs(network, size=network.smallest)


SLOW = {"vgg16", "densenet121", "inception_v3"}  # minutes in float64


def sizes(graphs: NetworkGraphs) -> list[int]:
    """Return the size of the trace and, where the network takes it, a larger odd one."""
    assert graphs.original.any_size != graphs.network.fixed_size
    one = graphs.network.fixed_size or graphs.network.name in SLOW
    return [graphs.size] if one else [graphs.size, graphs.size + 37]


def test_gradient_at_the_default_layer(graphs: NetworkGraphs) -> None:
    assert graphs.original.layer == DEFAULT_LAYERS[graphs.network.name]
    for size in sizes(graphs):
        errors = graphs.layer_errors(size=size)
        assert errors.pop("gradient") < 1e-5
        assert max(errors.values()) < 1e-4


def test_gradient_at_the_image(graphs: NetworkGraphs) -> None:
    for size in sizes(graphs):
        error = graphs.image_error(size=size)
        assert error.value < 1e-4, size
        assert error.float32 < (1e-4 if graphs.network.name in SMOOTH else 0.1)


def test_map_changes_with_the_image_and_with_the_class(graphs: NetworkGraphs) -> None:
    images = random_images(graphs.size, channels=CHANNELS, seed=3)
    session = Session(graphs.explainer.SerializeToString())

    def hirescam(number: int, target: int) -> np.ndarray:
        feeds = {"image": images[number : number + 1], "target": np.array([target])}
        activation, gradient = session.run(["activation", "gradient"], feeds)
        raw = (activation * gradient).sum(axis=1)  # [1, h, w]
        return raw / np.linalg.norm(raw)

    first = hirescam(0, 1)
    np.testing.assert_array_equal(hirescam(0, 1), first)
    assert np.linalg.norm(hirescam(1, 1) - first) > 0.1
    assert np.linalg.norm(hirescam(0, 2) - first) > 0.1


@pytest.mark.parametrize("graph", ["explainer", "image_gradient"])
def test_tensorrt_builds(graphs: NetworkGraphs, graph: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    from klieg.export.inspection.tensorrt_lint import lint
    from networks.tensorrt_rtx import build_engine

    model = getattr(graphs, graph)
    built = build_engine(
        model.SerializeToString(), sizes=(graphs.size, graphs.size, 2 * graphs.size)
    )
    assert built.complaint is None
    assert built.engine_bytes > 0
    assert lint(model) == []


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_tensorrt_builds_in_lower_precision(graphs: NetworkGraphs, precision: str) -> None:
    """The explainer is built: its forward pass is where precisions change.

    Gradients at the image are float32's but for what they read of the forward pass. That is a
    matter for the parser, and in bfloat16, which has fewer operators.
    """
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    from klieg.export.inspection.tensorrt_lint import lint
    from klieg.export.instrument.precision import to_mixed_precision
    from networks.tensorrt_rtx import build_engine, parse

    model = to_mixed_precision(graphs.explainer, precision)
    built = build_engine(
        model.SerializeToString(), sizes=(graphs.size, graphs.size, 2 * graphs.size)
    )
    assert built.complaint is None
    assert built.engine_bytes > 0
    assert lint(model) == []
    if precision == "bfloat16":
        image = to_mixed_precision(graphs.image_gradient, precision)
        assert parse(image.SerializeToString()) is None


EARLIER_LAYERS = {
    "resnet50": "layer3.5",
    "mobilenet_v3_large": "features.13",
}


@pytest.mark.parametrize("name", EARLIER_LAYERS)
def test_export_at_an_earlier_layer(name: str, tmp_path: Path) -> None:
    (network,) = [network for network in NETWORKS if network.name == name]
    size = network.smallest
    report = export_classifier(
        build(network, size=size),
        tmp_path / "net.onnx",
        layer=EARLIER_LAYERS[name],
        input_size=size,
        mean=MEAN,
        std=STD,
    )
    assert not report.fixed_size
    assert report.parity["logits"] < 1e-4
    assert report.parity["gradient"] < 1e-3
    gradient = read_explainer(tmp_path / "net.onnx").facts.outputs["gradient"]
    assert gradient.shape[2:] == ("rows", "columns"), "the earlier layer's gradient varies in space"
    with Explainer(tmp_path / "net.onnx") as explainer:
        image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        result = explainer.explain(image, scales=[size, size + 50], target=1)
    assert np.isfinite(result.maps).all()
    assert not result.degenerate.any()
