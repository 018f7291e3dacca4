"""TensorRT's parser takes the gradient of every operator that it takes itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.directional_check import gradient_model, operator_model
from helpers.rule_cases import CASES
from klieg.export.inspection.tensorrt_lint import lint
from klieg.export.parity.float64 import evaluator

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

from networks.tensorrt_rtx import parse

STRICTER = {"Resize"}  # the lint refuses cubic for older versions, the parser does not


@pytest.mark.parametrize("op_type", sorted(CASES))
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_gradient_parses(op_type: str, data: st.DataObject) -> None:
    case = data.draw(CASES[op_type])
    for dynamic in (False, True):
        forward = operator_model(op_type, case, dynamic=dynamic)
        inputs = {name: value.astype(np.float32) for name, value in case.inputs.items()}
        (y,) = evaluator(forward).run(["y"], inputs)
        backward = gradient_model(op_type, case, np.ones(y.shape), dynamic=dynamic)
        if parse(typed(forward)) is not None:
            continue
        assert parse(typed(backward)) is None
        if op_type not in STRICTER:
            assert lint(backward) == []


def typed(model: onnx.ModelProto) -> bytes:
    """Serialise with types for the outputs, which the parser asks for."""
    inferred = onnx.shape_inference.infer_shapes(model)
    for output in inferred.graph.output:
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return inferred.SerializeToString()
