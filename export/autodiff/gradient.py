"""The public entry: a copy of a model with one more input `target`, one more output `gradient`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from klieg.errors import GradientError
from klieg.export.autodiff.emitter import Emitter, dims, graph_values
from klieg.export.autodiff.engine import Cotangent, Rule, pull_back
from klieg.export.autodiff.normal_form import normal_form
from klieg.export.autodiff.rules.tables import STANDARD_RULES

TARGET: Final = "target"
GRADIENT: Final = "gradient"


def add_gradient(model: onnx.ModelProto, *, score: str, wrt: str) -> onnx.ModelProto:
    """Append the gradient of one score per sample with respect to a tensor of the model.

    The result computes, next to everything the model did before, d score[b, target[b]] / d wrt for
    every sample b of the batch. It consists of ordinary forward operators at opset 18, so any
    engine that runs the model also runs its gradient. Dynamic axes stay dynamic. Operators that no
    output needs are left out.

    Args:
        model: An inference graph in which samples do not influence one another; it is not changed.
        score: Name of a floating-point tensor [batch, classes] with a fixed number of classes.
        wrt: Name of the floating-point tensor to differentiate by; it must lead to `score`.

    Returns:
        A copy of the model with one more input `target`, int64 [batch], where -1 stands for the
        class with the largest score, and one more output `gradient` of the shape of `wrt`. What a
        target outside -1..classes-1 does is the engine's affair: range-check it before the call.

    Raises:
        GradientError: the model is malformed or already has a tensor `target` or `gradient`;
            `score` or `wrt` is no tensor of it or has the wrong type or rank; or `wrt` does not
            lead to `score`.
        UnsupportedOperatorError: an operator between `wrt` and `score` has no rule.
    """
    graph_model = normal_form(model, keep=(score, wrt))
    graph = graph_model.graph
    wrt_value = find_tensor(graph, wrt)
    cotangent = differentiate(graph, score=find_tensor(graph, score), wrt=wrt_value)
    op = Emitter(graph)
    gradient = op.Identity(cotangent.expanded(op, wrt_value))
    gradient.name = GRADIENT
    gradient.shape = wrt_value.shape
    graph.outputs.append(gradient)
    RemoveUnusedNodesPass()(graph_model)
    return ir.to_proto(graph_model)


def differentiate(
    graph: ir.Graph,
    *,
    score: ir.Value,
    wrt: ir.Value,
    rules: Mapping[str, Rule] = STANDARD_RULES,
) -> Cotangent:
    """Extend a graph in normal form by the input `target` and d score[b, target[b]] / d wrt.

    Args:
        graph: A graph from `normal_form`; it is changed.
        score: Floating-point value [batch, classes].
        wrt: Floating-point value that leads to `score`.
        rules: The rule table; see `engine.pull_back`.

    Returns:
        The gradient, which may still have size 1 on axes along which it is constant.

    Raises:
        GradientError: see `add_gradient`.
    """
    if wrt.dtype is not None and not wrt.dtype.is_floating_point():
        raise GradientError(f"tensor {wrt.name!r} is {wrt.dtype}, expected a floating-point tensor")
    taken = {value.name for value in graph_values(graph)} & {TARGET, GRADIENT}
    if taken:
        raise GradientError(f"the model already has a tensor {taken.pop()!r}: rename it first")
    op = Emitter(graph)
    seed = one_hot_seed(op, score, add_target(graph, score))
    return pull_back(op, graph, score=score, seed=seed, wrt=wrt, rules=rules)


def add_target(graph: ir.Graph, score: ir.Value) -> ir.Value:
    """Append the input `target`, int64 [batch]."""
    batch = ir.Shape([score.shape[0]] if score.shape is not None else [None])
    target = ir.Value(name=TARGET, type=ir.TensorType(ir.DataType.INT64), shape=batch)
    graph.inputs.append(target)
    return target


def one_hot_seed(op: Emitter, score: ir.Value, target: ir.Value) -> Cotangent:
    """Return d score[b, target[b]] / d score; -1 stands for the class with the largest score."""
    classes = _checked_classes(score)
    predicted = op.ArgMax(score, axis=1, keepdims=0)
    chosen = op.Where(op.Less(target, 0), predicted, target)
    numpy_type = (score.dtype or ir.DataType.FLOAT).numpy()
    off_on = op.constant(np.array([0, 1], dtype=numpy_type))
    return Cotangent(op.OneHot(chosen, classes, off_on, axis=-1), hot=chosen)


def find_tensor(graph: ir.Graph, name: str) -> ir.Value:
    """Return the tensor called `name`; GradientError suggests near names if there is none."""
    values = {value.name: value for value in graph_values(graph) if value.name}
    if name not in values:
        near = difflib.get_close_matches(name, values, n=3)
        hint = f": did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise GradientError(f"the model has no tensor named {name!r}{hint}")
    return values[name]


def _checked_classes(score: ir.Value) -> int:
    if score.dtype is not None and not score.dtype.is_floating_point():
        raise GradientError(f"score {score.name!r} is {score.dtype}, expected floating point")
    sizes = dims(score)
    if len(sizes) != 2 or sizes[1] is None:
        shown = "[" + ", ".join("?" if size is None else str(size) for size in sizes) + "]"
        raise GradientError(
            f"score {score.name!r} has shape {shown}, expected [batch, classes] "
            "with a fixed number of classes"
        )
    return sizes[1]
