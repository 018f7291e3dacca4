"""The growth of the file of a real network by its backward passes."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from klieg.export.classifiers.onnx_classifier import GraphClassifier, TensorNames, find_classifier
from klieg.export.classifiers.sources import Source
from klieg.export.classifiers.torch_classifier import TorchClassifier
from klieg.export.instrument.graph import instrument
from klieg.export.instrument.outputs import BACKWARD

TURNING = {"Reshape", "Slice", "Transpose"}


@pytest.fixture(scope="module")
def traced(lite0: Source) -> tuple[GraphClassifier, int]:
    """EfficientNet-Lite0 and the size of its file without a gradient."""
    original = TorchClassifier(
        lite0.model, layer=None, input_size=64, mean=lite0.mean, std=lite0.std
    )
    classifier = find_classifier(
        original.to_onnx(), names=TensorNames(layer="layer"), input_size=64, channels=3
    )
    return classifier, len(ir.to_proto(classifier.model).SerializeToString())


def constant_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that compute the same whatever the image and the target are."""
    known = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if all(name in known for name in node.input if name):
            known.update(node.output)
            found.append(node)
    return found


@pytest.mark.parametrize(
    ("outputs", "growth"), [(["gradient"], 0.01), (list(BACKWARD), 0.02)], ids=["gradient", "all"]
)
def test_last_layer(traced: tuple[GraphClassifier, int], outputs: list[str], growth: float) -> None:
    classifier, size = traced
    options = {"mean": [0.5] * 3, "std": [0.5] * 3, "outputs": outputs}
    model = ir.to_proto(instrument(classifier, **options, several_targets=True))
    assert len(model.SerializeToString()) < (1 + growth) * size
    # Weights turned for the gradient of a convolution stay operators: folded here they would stand
    # in the file twice, and engines fold them when they load it.
    left = {node.op_type for node in constant_nodes(model)}
    assert left <= (set() if outputs == ["gradient"] else TURNING)
