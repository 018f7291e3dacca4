"""Comparing one rule with finite differences along a few directions, and with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx_ir as ir
import onnxruntime

from klieg.export.autodiff.emitter import Emitter
from klieg.export.autodiff.engine import Cotangent, pull_back
from klieg.export.autodiff.gradient import find_tensor
from klieg.export.autodiff.normal_form import normal_form
from klieg.export.autodiff.rules.tables import STANDARD_RULES
from klieg.export.parity.float64 import evaluator, in_float64

STEP = 1e-5
TOLERANCE = 1e-6  # central differences in float64: STEP**2 and 1e-16 / STEP, over sums of elements
ENGINE_TOLERANCE = 1e-4  # float32 over short sums; also the exponentials of engines differ
DIRECTIONS = 2


@dataclass(frozen=True)
class Case:
    """One use of one operator; its outputs are all floating-point."""

    inputs: Mapping[str, np.ndarray]
    """The operands to differentiate by, one after another; float64."""
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The other operands: initializers."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    order: Sequence[str] | None = None
    """The names of the operands as the node takes them, "" for one that is left out."""
    outputs: Sequence[str] = ("y",)
    tail: Sequence[onnx.NodeProto] = ()
    """Nodes behind the operator, which compute `y` if it has several outputs."""
    fixed_axes: Sequence[int] = (1,)
    """Axes whose sizes are known where others are dynamic; the rules may rely on them."""
    opset: int = 18
    engine: bool = True
    """Whether ONNX Runtime has the operator in this use."""


def check_case(
    op_type: str, case: Case, *, tolerance: float = TOLERANCE, expanded: bool = False
) -> None:
    """Compare the gradients of sum(seed * y) by every input with finite differences.

    With `expanded` the differences are those of the model in normal form, where the reference
    implementation of the operator itself is too imprecise.
    """
    inputs = dict(case.inputs)
    for dynamic in (False, True):
        proto = operator_model(op_type, case, dynamic=dynamic)
        forward = evaluator(in_float64(proto))
        (y,) = forward.run(["y"], inputs)
        if expanded:
            forward = evaluator(in_float64(ir.to_proto(normal_form(proto))))
            np.testing.assert_allclose(forward.run(["y"], inputs)[0], y, atol=1e-6)
        generator = np.random.default_rng(1)
        seed = generator.standard_normal(y.shape).astype(np.float32).astype(np.float64)
        with_gradients = _with_gradients(proto, list(inputs), seed)
        got: Any = evaluator(in_float64(with_gradients)).run(None, inputs)
        for gradient, name in zip(got, inputs, strict=True):
            assert gradient.shape == inputs[name].shape
            _compare_along_directions(forward, inputs, name, seed, gradient, generator, tolerance)
        if case.engine:
            _compare_with_engine(with_gradients, inputs, got)


def gradient_model(op_type: str, case: Case, seed: np.ndarray, *, dynamic: bool) -> onnx.ModelProto:
    """Return a float32 model of the gradients of sum(seed * y) by every input."""
    return _with_gradients(operator_model(op_type, case, dynamic=dynamic), list(case.inputs), seed)


def _compare_along_directions(
    forward: Any,
    inputs: dict[str, np.ndarray],
    name: str,
    seed: np.ndarray,
    gradient: np.ndarray,
    generator: np.random.Generator,
    tolerance: float,
) -> None:
    for _ in range(DIRECTIONS):
        direction = generator.uniform(0.5, 1, gradient.shape)
        direction *= generator.choice([-1, 1], gradient.shape)
        ahead, behind = (
            forward.run(["y"], {**inputs, name: inputs[name] + sign * STEP * direction})[0]
            for sign in (1, -1)
        )
        want = ((ahead - behind) * seed).sum() / (2 * STEP)
        size = max(1.0, float(np.abs(gradient * direction).sum()))
        assert abs((gradient * direction).sum() - want) <= tolerance * size


def _compare_with_engine(
    model: onnx.ModelProto, inputs: dict[str, np.ndarray], want: Sequence[np.ndarray]
) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    used = {entry.name for entry in session.get_inputs()}
    feeds = {k: v.astype(np.float32) for k, v in inputs.items() if k in used}
    for value, reference in zip(session.run(None, feeds), want, strict=True):
        size = max(1.0, float(np.abs(reference).max(initial=0)))
        np.testing.assert_allclose(value, reference, atol=ENGINE_TOLERANCE * size, rtol=0)


def operator_model(op_type: str, case: Case, *, dynamic: bool) -> onnx.ModelProto:
    """Return the use of the operator as a float32 model."""
    operands = case.order or [*case.inputs, *case.constants]
    node = oh.make_node(
        op_type, operands, list(case.outputs), name="the_node", **dict(case.attributes)
    )
    graph = oh.make_graph(
        [node, *case.tail],
        "case",
        [
            oh.make_tensor_value_info(
                name, onnx.TensorProto.FLOAT, _shape(name, value, case.fixed_axes, dynamic=dynamic)
            )
            for name, value in case.inputs.items()
        ],
        [oh.make_empty_tensor_value_info("y")],
        [onnx.numpy_helper.from_array(_single(v), k) for k, v in case.constants.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", case.opset)], ir_version=8)


def _shape(
    name: str, value: np.ndarray, fixed_axes: Sequence[int], *, dynamic: bool
) -> list[str | int]:
    # An axis of size 1 stays fixed: rules see from it that the operand is broadcast.
    return [
        f"{name}{axis}" if dynamic and axis not in fixed_axes and size != 1 else size
        for axis, size in enumerate(value.shape)
    ]


def _with_gradients(proto: onnx.ModelProto, names: list[str], seed: np.ndarray) -> onnx.ModelProto:
    """Return a float32 model of the gradients by these inputs."""
    model = normal_form(proto)
    op = Emitter(model.graph)
    score = find_tensor(model.graph, "y")
    gradients = []
    for name in names:
        wrt = find_tensor(model.graph, name)
        start = Cotangent(op.constant(_single(seed)))
        total = pull_back(op, model.graph, score=score, seed=start, wrt=wrt, rules=STANDARD_RULES)
        gradients.append(op.Identity(total.expanded(op, wrt)))
    model.graph.outputs.clear()
    for gradient, name in zip(gradients, names, strict=True):
        gradient.type = ir.TensorType(ir.DataType.FLOAT)
        gradient.name = f"gradient_of_{name}"
    model.graph.outputs.extend(gradients)
    return ir.to_proto(model)


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array
