"""The normal form of a model, on which differentiation works."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np
import onnx
import onnx.defs
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common as passes

from klieg.errors import GradientError
from klieg.export.autodiff.emitter import graph_values, numpy_constant
from klieg.export.autodiff.rules.tables import STANDARD_RULES
from klieg.export.autodiff.soundness import check_content, check_structure, try_inference

OPSET: Final = 18
"""Opset of everything klieg writes: accepted by TensorRT 10 and later and by ONNX Runtime."""

OLDEST: Final = 9
NEWEST: Final = 23

IR_VERSION: Final = 8
"""File format that belongs to opset 18, so that old runtimes read the result."""

SHAPE_ARITHMETIC: Final = 4096
"""Largest constant, in elements, that is computed here rather than by the engine at every run."""


_NO_EXPANSION: Final = frozenset({"Bernoulli", "Range", "SequenceMap"})
"""Defined by a loop or by random numbers, which no rule and few engines take."""


def normal_form(model: onnx.ModelProto, *, keep: Collection[str] = ()) -> ir.Model:
    """Return a copy at opset 18 with shapes inferred, functions inlined, constants as initializers.

    Args:
        model: A model at opset 9 to 23; it is not changed.
        keep: Names of tensors that must still be there, even if nothing needs them.

    Raises:
        GradientError: the model is malformed, or cannot be expressed at opset 18.
    """
    try:
        try_inference(model)
        model = _at_opset(_expanded(model))
        # It checks types and ranks, which folding relies on.
        result = _fold(_inferred(model), keep)
        ir.passes.Sequential(
            passes.RemoveInitializersFromInputsPass(),
            passes.TopologicalSortPass(),
            passes.ClearMetadataAndDocStringPass(),
        )(result)
        check_content(result.graph, OPSET)
    except MALFORMED as error:
        raise GradientError(f"the model is malformed: {error}") from error
    result.ir_version = IR_VERSION
    return result


MALFORMED: Final = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    ir.passes.PassError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
)
"""The errors of onnx and onnx-ir on broken protobufs."""


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of the standard operators.

    Raises:
        GradientError: there is none.
    """
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            return int(opset.version)
    raise GradientError("the model names no opset for the standard operators")


def _expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which functions are written out by other operators.

    Functions are those that the model itself defines, and standard operators with a definition by
    other operators and without a gradient rule (Gelu, GroupNormalization, RMSNormalization,
    Attention, ...). Expanding them also takes a model below the opset that introduced them.

    Args:
        model: A model at any opset; it is not changed.
    """
    model = onnx.inliner.inline_local_functions(model, convert_version=True)
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    expanded: set[str] = set()
    for node in model.graph.node:
        schema = _schema(node, version)
        if schema is not None and _to_expand(schema):
            expanded.add(node.op_type)
            _write_defaults(node, schema)
    if not expanded:
        return model
    # Several definitions depend on the types and ranks of their inputs, of constants too.
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    inferred.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in inferred.graph.initializer
    )
    return onnx.inliner.inline_selected_functions(
        inferred, [("", name) for name in sorted(expanded)], inline_schema_functions=True
    )


def _schema(node: onnx.NodeProto, version: int) -> onnx.defs.OpSchema | None:
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, version, ""):
        return None
    return onnx.defs.get_schema(node.op_type, version, "")


def _to_expand(schema: onnx.defs.OpSchema) -> bool:
    # onnx's type stubs leave these two out.
    defined = getattr(schema, "has_function") or getattr(schema, "has_context_dependent_function")  # noqa: B009
    return bool(defined) and schema.name not in STANDARD_RULES and schema.name not in _NO_EXPANSION


def _write_defaults(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
    """Write down attributes that are left out: the inliner does not know their defaults."""
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.type:
            node.attribute.append(attribute.default_value)


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model at `OPSET`."""
    version = opset_of(model)
    if not OLDEST <= version <= NEWEST:
        raise GradientError(
            f"the model has opset {version}, expected {OLDEST} to {NEWEST}: "
            "convert it with onnx.version_converter, or export it again"
        )
    if version == OPSET:
        return model
    try:
        if version < OPSET:
            return onnx.version_converter.convert_version(model, OPSET)
        return _relabelled(model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise GradientError(
            f"the model has opset {version} and cannot be expressed at {OPSET}: {error}"
        ) from error


def _relabelled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a newer model under the older opset, checked against the older operators.

    What came after opset 18 are new operators, which are expanded before, new element types, and
    attributes whose defaults mean what operators did before.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for opset in copy.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = OPSET
    for node in copy.graph.node:
        if node.domain in ("", "ai.onnx"):
            _drop_newer_attributes(node)
    copy = onnx.shape_inference.infer_shapes(copy, strict_mode=True)
    onnx.checker.check_model(copy)
    return copy


_GRID_SAMPLE_MODES: Final = {b"linear": b"bilinear", b"cubic": b"bicubic"}


def _drop_newer_attributes(node: onnx.NodeProto) -> None:
    defaults = {"saturate": 1, "block_size": 0, "output_dtype": 0}
    kept = []
    for attribute in node.attribute:
        if node.op_type == "AveragePool" and attribute.name == "dilations":
            if set(attribute.ints) == {1}:
                continue
        elif node.op_type in ("Cast", "QuantizeLinear", "DequantizeLinear"):
            if defaults.get(attribute.name) == attribute.i:
                continue
        elif node.op_type == "GridSample" and attribute.name == "mode":
            attribute.s = _GRID_SAMPLE_MODES.get(attribute.s, attribute.s)
        kept.append(attribute)
    del node.attribute[:]
    node.attribute.extend(kept)


def _inferred(model: onnx.ModelProto) -> ir.Model:
    """Return a model with shapes inferred and constants as initializers."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    # What follows relies on operands that exist and on attributes of their type.
    check_structure(inferred)
    result: ir.Model = ir.from_proto(inferred)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(result)
    return result


def _fold(model: ir.Model, keep: Collection[str]) -> ir.Model:
    """Compute what is constant, such as shapes of fixed axes and padding derived from them.

    Exporters write as graphs what rules need as numbers: the amounts of a Pad, the sizes of a
    Resize.
    """
    from onnxscript.optimizer import fold_constants

    graph = model.graph
    outputs = len(graph.outputs)
    named = {value.name: value for value in graph_values(graph)}
    kept = [named[name] for name in keep if name in named and not named[name].is_graph_output()]
    graph.outputs.extend(value for value in kept if value.producer() is not None)
    result = fold_constants(
        model,
        input_size_limit=SHAPE_ARITHMETIC,
        output_size_limit=SHAPE_ARITHMETIC,
        should_fold=_is_small_fill,
    )
    if result.modified:
        passes.RemoveUnusedNodesPass()(model)
        model = _inferred(ir.to_proto(model))
    del model.graph.outputs[outputs:]
    return model


def _is_small_fill(node: ir.Node) -> bool | None:
    """Fold ConstantOfShape of few elements too, which the library leaves alone."""
    if node.op_type != "ConstantOfShape" or node.domain:
        return None
    shape = numpy_constant(node.inputs[0])
    return shape is not None and bool(np.prod(shape) <= SHAPE_ARITHMETIC)
