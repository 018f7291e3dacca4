"""The one form of a model that differentiation works on."""

from __future__ import annotations

from typing import Final

import onnx
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common as passes

from klieg.errors import GradientError

OPSET: Final = 18
"""Opset of everything klieg writes: accepted by TensorRT 10 and later and by ONNX Runtime."""

IR_VERSION: Final = 8
"""File format that belongs to opset 18, so that old runtimes read the result."""


def normal_form(model: onnx.ModelProto) -> ir.Model:
    """Return a copy at opset 18 with shapes inferred, functions inlined, constants as initializers.

    Raises:
        GradientError: the model is malformed, or one of its operators does not exist at opset 18.
    """
    version = _opset(model)
    if version != OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
            raise GradientError(
                f"the model has opset {version} and cannot be converted to {OPSET}: {error}"
            ) from error
    try:
        # Before anything else: it checks the operators, and later passes rely on types and ranks.
        result = ir.from_proto(
            onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        )
    except (onnx.shape_inference.InferenceError, ValueError, TypeError, RuntimeError) as error:
        raise GradientError(f"the model is malformed: {error}") from error
    ir.passes.Sequential(
        passes.InlinePass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveInitializersFromInputsPass(),
        passes.TopologicalSortPass(),
        passes.ClearMetadataAndDocStringPass(),
    )(result)
    result.ir_version = IR_VERSION
    return result


def _opset(model: onnx.ModelProto) -> int:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            return int(opset.version)
    raise GradientError("the model names no opset for the standard operators")
