"""The gradient inside an explainer against finite differences, for models without an original.

A bare ONNX model has no autograd to compare with. So the part of the explainer from the activation
to the logits and the gradient is cut out, run in float64 with ONNX's own reference implementation
at a generic point (random noise added to a real activation: at ties of zeros behind a Relu no
derivative exists), and its gradient is compared with central differences of its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.helper
import onnx.reference
from numpy.typing import NDArray

from klieg.export.float64 import doubled, evaluator, in_float64
from klieg.export.parity_inputs import random_images, two_targets
from klieg.export.session import open_session

DIRECTIONS: Final = 4
STEP: Final = 1e-6
"""Relative to the activation's size; in float64 rounding then costs about 1e-9."""


def gradient_error(
    explainer: onnx.ModelProto, *, sizes: Sequence[int], channels: int, classes: int
) -> float:
    """Return the largest error of a directional derivative, relative to the gradient's norm.

    Args:
        explainer: An instrumented classifier.
        sizes: Image sizes to compare at, two images of two classes each.
        channels: Number of channels of an image.
        classes: Number of classes.
    """
    tail, boundary = _cut_at_activation(explainer)
    tail_evaluator = evaluator(in_float64(tail))
    front = onnx.ModelProto()
    front.CopyFrom(explainer)
    del front.graph.output[1:]
    front.graph.output[0].CopyFrom(onnx.helper.make_empty_tensor_value_info("activation"))
    front.graph.output.extend(onnx.helper.make_empty_tensor_value_info(b) for b in boundary)
    session = open_session(front.SerializeToString())
    worst = 0.0
    for seed, size in enumerate(sizes):
        images = random_images(size, channels=channels, seed=seed)
        targets = two_targets(classes, seed=seed)
        feeds = {"image": images, "target": np.array(targets)}
        activation, *fixed = session.run(["activation", *boundary], feeds)
        given = {name: doubled(value) for name, value in zip(boundary, fixed, strict=True)}
        worst = max(worst, _error_at(tail_evaluator, activation, given, targets, seed))
    return worst


def _error_at(
    tail: onnx.reference.ReferenceEvaluator,
    activation: NDArray[np.float32],  # [B, k, h, w]
    given: dict[str, NDArray[Any]],
    targets: list[int],
    seed: int,
) -> float:
    generator = np.random.default_rng(seed)
    unit = float(np.sqrt(np.mean(activation.astype(np.float64) ** 2))) or 1.0
    point = activation + 1e-2 * unit * generator.standard_normal(activation.shape)

    def run(where: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        feeds = {"activation": where, "target": np.array(targets), **given}
        outputs: Any = tail.run(None, feeds)
        logits, gradient = outputs
        return logits[np.arange(len(targets)), targets], gradient

    _, gradient = run(point)
    gradient = np.broadcast_to(gradient, point.shape)
    norm = np.sqrt((gradient**2).sum(axis=(1, 2, 3)))  # [B]
    worst = 0.0
    for _ in range(DIRECTIONS):
        direction = generator.standard_normal(point.shape)
        step = STEP * unit
        difference = (
            (run(point + step * direction)[0] - run(point - step * direction)[0]) / 2 / step
        )
        error = np.abs(difference - (gradient * direction).sum(axis=(1, 2, 3)))
        worst = max(worst, float((error / np.maximum(norm, 1e-300)).max()))
    return worst


def _cut_at_activation(explainer: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Return the part behind the activation, and the other tensors that it reads."""
    graph = explainer.graph
    behind = {"activation", "target"}
    for node in graph.node:
        if any(name in behind for name in node.input) and "activation" not in node.output:
            behind.update(node.output)
    needed = {"logits", "gradient"}
    nodes: list[onnx.NodeProto] = []
    boundary: list[str] = []
    for node in reversed(graph.node):
        outputs = [name for name in node.output if name in needed]
        if not outputs or "activation" in outputs:
            continue
        if outputs[0] in behind:
            nodes.append(node)
            needed.update(node.input)
        else:
            boundary.extend(outputs)
    boundary += [name for name in needed if name == "image"]
    make = onnx.helper.make_empty_tensor_value_info
    tail = onnx.helper.make_graph(
        nodes[::-1],
        "tail",
        inputs=[make(name) for name in ("activation", "target", *boundary)],
        outputs=[make("logits"), make("gradient")],
        initializer=[tensor for tensor in graph.initializer if tensor.name in needed],
    )
    return onnx.helper.make_model(tail, opset_imports=explainer.opset_import), boundary
