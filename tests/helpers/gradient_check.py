"""Comparing one rule with finite differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir

from klieg.export.autodiff.emitter import Emitter
from klieg.export.autodiff.engine import Cotangent, pull_back
from klieg.export.autodiff.gradient import find_tensor
from klieg.export.autodiff.normal_form import normal_form
from klieg.export.autodiff.rules.tables import STANDARD_RULES
from klieg.export.parity.float64 import evaluator

STEP = 1e-6
TOLERANCE = 1e-7  # central differences in float64: STEP**2 + 1e-16 / STEP, with room for large sums


def model_of(
    op_type: str,
    inputs: dict[str, np.ndarray],
    *,
    dynamic: bool,
    constants: dict[str, np.ndarray] | None = None,
    order: list[str] | None = None,
    opset: int = 18,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node in float64; `order` names its operands, "" leaves one out."""
    constants = constants or {}
    operands = order or [*inputs, *constants]
    node = onnx.helper.make_node(op_type, operands, ["y"], name="the_node", **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "one_node",
        [
            onnx.helper.make_tensor_value_info(
                name,
                onnx.TensorProto.DOUBLE,
                [
                    f"{name}{axis}" if dynamic and axis != 1 and size != 1 else size
                    for axis, size in enumerate(value.shape)
                ],
            )
            for name, value in inputs.items()
        ],
        [onnx.helper.make_empty_tensor_value_info("y")],
        initializer=[onnx.numpy_helper.from_array(v, name) for name, v in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def check(
    op_type: str,
    inputs: dict[str, np.ndarray],
    wrt: str,
    *,
    tolerance: float = TOLERANCE,
    expanded: bool = False,
    **options: Any,
) -> None:
    """Compare the gradient of sum(seed * y) by `wrt` with finite differences at every element.

    With `expanded` the differences are those of the model in normal form, where the reference
    implementation of the operator itself is too imprecise.
    """
    for dynamic in (False, True):
        proto = model_of(op_type, inputs, dynamic=dynamic, **options)
        forward = evaluator(proto)
        if expanded:
            (imprecise,) = forward.run(None, inputs)
            forward = evaluator(ir.to_proto(normal_form(proto)))
            np.testing.assert_allclose(forward.run(None, inputs)[0], imprecise, atol=1e-6)
        (y,) = forward.run(None, inputs)
        seed = np.random.default_rng(1).standard_normal(y.shape)

        model = normal_form(proto)
        op = Emitter(model.graph)
        value = find_tensor(model.graph, wrt)
        total = pull_back(
            op,
            model.graph,
            score=find_tensor(model.graph, "y"),
            seed=Cotangent(op.constant(seed)),
            wrt=value,
            rules=STANDARD_RULES,
        )
        model.graph.outputs.clear()
        model.graph.outputs.append(total.expanded(op, value))
        (got,) = evaluator(ir.to_proto(model)).run(None, inputs)

        want = np.empty_like(inputs[wrt])
        for place in np.ndindex(want.shape):
            sides = []
            for sign in (1, -1):
                moved = {k: v.copy() for k, v in inputs.items()}
                moved[wrt][place] += sign * STEP
                sides.append((forward.run(None, moved)[0] * seed).sum())
            want[place] = (sides[0] - sides[1]) / (2 * STEP)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=tolerance * max(1, np.abs(want).max()), rtol=0)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normal numbers with no two nearly equal, so that no step crosses a kink or a tie."""
    generator = np.random.default_rng(seed)
    count = int(np.prod(shape))
    spread = np.linspace(-2, 2, count + 2)[1:-1] + 0.01 / (count + 1)
    return generator.permutation(spread).reshape(shape)
