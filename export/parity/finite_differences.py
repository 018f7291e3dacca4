"""The gradient inside an explainer against finite differences, for models without an original.

A bare ONNX model has no autograd to compare with. So the part of the explainer from the activation
(or the image) to the logits and the gradient is cut out, run in float64 with ONNX's own reference
implementation at a generic point (random noise added to a real activation: at ties of zeros behind
a Relu no derivative exists), and its gradient is compared with central differences of its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.helper
import onnx.reference
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from klieg.export.autodiff.emitter import graph_values
from klieg.export.parity.float64 import doubled, evaluator, in_float64
from klieg.export.random_images import Probes
from klieg.export.session import Session

DIRECTIONS: Final = 5
STEPS: Final = {"activation": (1e-6, 1e-7, 1e-8), "image": (1e-8, 1e-9, 1e-10)}
"""Relative to the size of the tensor. Rounding costs about 1e-15 / step; but the longer the step,
the more kinks of Relus and pools it crosses, and between image and logits there are many. A shorter
step is tried where the differences disagree; a wrong gradient disagrees with all."""

SURE: Final = 1e-5
"""No shorter step is tried below this error."""


def gradient_error(
    explainer: onnx.ModelProto,
    probes: Probes,
    *,
    gradient: str = "gradient",
    wrt: str = "activation",
) -> float:
    """Return the median error of directional derivatives, relative to the gradient's norm.

    The largest median of all images.

    Args:
        explainer: An instrumented classifier.
        probes: The inputs to compare at.
        gradient: The output to check.
        wrt: What it is the gradient with respect to: "activation" or "image".
    """
    tail, boundary = _cut_behind(explainer, wrt, ["logits", gradient])
    whole = evaluator(in_float64(tail))
    forward = evaluator(in_float64(_cut_behind(explainer, wrt, ["logits"])[0]))
    front = _runner(explainer, boundary)
    worst = 0.0
    for seed, feeds in enumerate(probes):
        given = {name: doubled(value) for name, value in (feeds | front(feeds)).items()}
        worst = max(worst, _error_at(whole, forward, given, wrt, feeds["target"], seed))
    return worst


def _runner(
    explainer: onnx.ModelProto, names: list[str]
) -> Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    """Return a function that computes some tensors of an explainer from its inputs."""
    if not names:
        return lambda _: {}
    session = Session(with_outputs(explainer, names).SerializeToString())
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def _error_at(
    whole: onnx.reference.ReferenceEvaluator,
    forward: onnx.reference.ReferenceEvaluator,
    given: dict[str, NDArray[Any]],  # among them x [B, k, h, w]
    wrt: str,
    targets: NDArray[np.int64],
    seed: int,
) -> float:
    generator = np.random.default_rng(seed)
    x = given[wrt]
    unit = float(np.sqrt(np.mean(x**2))) or 1.0
    point = x + 1e-2 * unit * generator.standard_normal(x.shape)

    def run(tail: onnx.reference.ReferenceEvaluator, where: NDArray[np.float64]) -> Any:
        outputs: Any = tail.run(None, {**given, wrt: where})
        logits, *gradient = outputs
        return logits[np.arange(len(targets)), targets], gradient

    gradient = np.broadcast_to(run(whole, point)[1][0], point.shape)
    norm = np.sqrt((gradient**2).sum(axis=(1, 2, 3)))  # [B]
    directions = [generator.standard_normal(point.shape) for _ in range(DIRECTIONS)]
    slopes = [(gradient * direction).sum(axis=(1, 2, 3)) for direction in directions]  # [B] each
    best = np.inf
    for step in STEPS[wrt]:
        errors = []  # [directions, B]
        for direction, slope in zip(directions, slopes, strict=True):
            move = step * unit * direction
            ahead, behind = (run(forward, point + sign * move)[0] for sign in (1, -1))
            difference = (ahead - behind) / (2 * step * unit)
            errors.append(np.abs(difference - slope) / np.maximum(norm, 1e-300))
        # A kink spoils the difference in the directions that cross it, a wrong gradient in all.
        best = min(best, float(np.median(errors, axis=0).max()))
        if best <= SURE:
            break
    return best


def with_outputs(explainer: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return an explainer that computes these tensors and nothing else."""
    model: ir.Model = ir.from_proto(explainer)
    values = {value.name: value for value in graph_values(model.graph)}
    model.graph.outputs.clear()
    model.graph.outputs.extend(values[name] for name in names)
    RemoveUnusedNodesPass()(model)
    return ir.to_proto(model)


def _cut_behind(
    explainer: onnx.ModelProto, wrt: str, outputs: Sequence[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """Return the part behind `wrt`, and the names of the computed tensors that it reads."""
    graph = explainer.graph
    behind = {wrt, "target"}
    for node in graph.node:
        if any(name in behind for name in node.input) and wrt not in node.output:
            behind.update(node.output)
    needed = set(outputs)
    nodes: list[onnx.NodeProto] = []
    boundary: list[str] = []
    for node in reversed(graph.node):
        found = [name for name in node.output if name in needed]
        if not found:
            continue
        if wrt not in found and found[0] in behind:
            nodes.append(node)
            needed.update(node.input)
        else:
            boundary.extend(found)
    inputs = {"target", *boundary, *({"image"} & needed)}
    make = onnx.helper.make_empty_tensor_value_info
    tail = onnx.helper.make_graph(
        nodes[::-1],
        "tail",
        inputs=[make(name) for name in sorted(inputs)],
        outputs=[make(name) for name in outputs],
        initializer=[tensor for tensor in graph.initializer if tensor.name in needed],
    )
    return onnx.helper.make_model(tail, opset_imports=explainer.opset_import), boundary
