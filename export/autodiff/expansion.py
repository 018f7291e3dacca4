"""Operators that are defined by other operators, written out."""

from __future__ import annotations

from typing import Final

import onnx
import onnx.defs
import onnx.helper
import onnx.inliner
import onnx.shape_inference

from klieg.export.autodiff.rules.tables import STANDARD_RULES

_NO_EXPANSION: Final = frozenset({"Bernoulli", "Range", "SequenceMap"})
"""Defined by a loop or by random numbers, which no rule and few engines take."""


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without calls of functions.

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
