"""The rule tables: of the gradient, of guided backpropagation and of deconvnet."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir

from klieg.export.autodiff.emitter import numpy_constant
from klieg.export.autodiff.engine import Cotangent, Pullback, Rule
from klieg.export.autodiff.rules import (
    activation,
    arithmetic,
    convolution,
    gathering,
    linear,
    normalization,
    padding,
    pooling,
    quantization,
    reduction,
    resizing,
    selection,
    shape,
)

STANDARD_RULES: Mapping[str, Rule] = MappingProxyType(
    activation.RULES
    | arithmetic.RULES
    | convolution.RULES
    | gathering.RULES
    | linear.RULES
    | normalization.RULES
    | padding.RULES
    | pooling.RULES
    | quantization.RULES
    | reduction.RULES
    | resizing.RULES
    | selection.RULES
    | shape.RULES
)


def guided(at: Pullback) -> ir.Value | Cotangent | None:
    """Relu: max(g, 0) where y > 0.

    Springenberg et al.: Striving for simplicity, the all convolutional net, 2015, section 3.4.
    """
    standard = STANDARD_RULES[at.node.op_type](at)
    return at.op.Relu(standard) if isinstance(standard, ir.Value) and _is_relu(at) else standard


def deconvnet(at: Pullback) -> ir.Value | Cotangent | None:
    """Relu: max(g, 0), wherever y is.

    Zeiler, Fergus: Visualizing and understanding convolutional networks, 2014, section 2.1.
    """
    if not _is_relu(at):
        return STANDARD_RULES[at.node.op_type](at)
    return Cotangent(at.op.Relu(at.compact.value), at.compact.constant_axes)


def _is_relu(at: Pullback) -> bool:
    """Return whether the node is a Relu, perhaps one with an upper bound such as Relu6."""
    if at.node.op_type == "Relu":
        return True
    low = numpy_constant(at.optional_input(1))
    return at.index == 0 and low is not None and not low.any()


GUIDED_RULES: Mapping[str, Rule] = MappingProxyType(
    {**STANDARD_RULES, "Relu": guided, "Clip": guided}
)
DECONVNET_RULES: Mapping[str, Rule] = MappingProxyType(
    {**STANDARD_RULES, "Relu": deconvnet, "Clip": deconvnet}
)
