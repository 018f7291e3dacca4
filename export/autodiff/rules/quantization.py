"""Quantisation: rounding has no useful derivative, so the gradient passes straight through.

A pair of QuantizeLinear and DequantizeLinear with the same scale rounds x to a grid of 256 values.
Its gradient is taken as that of y = x inside the range of the grid and 0 outside, the
straight-through estimator of quantisation-aware training (Bengio et al., arXiv 1308.3432). It is
the gradient of the model before quantisation, taken at the activations of the quantised one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from klieg.export.autodiff.emitter import dims, numpy_constant
from klieg.export.autodiff.engine import Cotangent, Pullback, Rule


def dequantize_linear(at: Pullback) -> Cotangent:
    """y = (q - zero point) * scale: g, for q made by QuantizeLinear with the same scale."""
    producer = at.x.producer()
    if at.index != 0 or producer is None or producer.op_type != "QuantizeLinear":
        raise at.unsupported("its input does not come from QuantizeLinear")
    scale, zero = _parameters(at)
    for own, others in ((scale, producer.inputs[1]), (zero, _optional(producer, 2))):
        other = numpy_constant(others)
        if own is None or (other is None) != (others is None):
            raise at.unsupported("its scale and zero point must be constants")
        if other is not None and not np.array_equal(own, other):
            raise at.unsupported("its scale or zero point is not that of its QuantizeLinear")
    return at.compact


def quantize_linear(at: Pullback) -> ir.Value:
    """q = round(x / scale) + zero point, limited to 8 bits: g where q would be in range, else 0."""
    at.require(at.index == 0, "its scale cannot carry a gradient")
    scale, zero = _parameters(at)
    kind = zero.dtype
    limits = np.iinfo(kind)
    shape = [1] * len(dims(at.x))
    if scale.size > 1:
        shape[int(at.attribute("axis", 1)) % len(shape)] = scale.size
    # Half a step beyond the ends of the grid still rounds to them.
    low = (float(limits.min) - zero.astype(np.float64) - 0.5) * scale
    high = (float(limits.max) - zero.astype(np.float64) + 0.5) * scale
    op, dtype = at.op, at.dtype.numpy()
    inside = op.And(
        op.GreaterOrEqual(at.x, low.reshape(shape).astype(dtype)),
        op.LessOrEqual(at.x, high.reshape(shape).astype(dtype)),
    )
    return op.Where(inside, at.compact.value, 0.0)


def _parameters(at: Pullback) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Return scale and zero point, each a number or one per channel."""
    scale, given = numpy_constant(at.input(1)), at.optional_input(2)
    zero = np.array(0, np.uint8) if given is None else numpy_constant(given)
    if scale is None or zero is None or zero.dtype.kind not in "iu":
        raise at.unsupported("its scale and zero point must be constants of integer type")
    return scale, zero


def _optional(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


RULES: dict[str, Rule] = {
    "DequantizeLinear": dequantize_linear,
    "QuantizeLinear": quantize_linear,
}
