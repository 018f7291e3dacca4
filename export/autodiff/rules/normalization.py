"""Normalisation, with statistics fixed at training time or those of the sample itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from klieg.export.autodiff.emitter import dims, numpy_constant
from klieg.export.autodiff.engine import Cotangent, Pullback, Rule


def batch_normalization(at: Pullback) -> Cotangent:
    """y = (x - mean) / sqrt(var + eps) * scale + bias per channel: g scale / sqrt(var + eps)."""
    if at.attribute("training_mode", 0):
        raise at.unsupported("it is in training mode; export the model in evaluation mode")
    if at.index != 0:
        raise at.unsupported("its parameters depend on the tensor to differentiate by")
    epsilon = float(at.attribute("epsilon", 1e-5))
    scale, variance = at.input(1), at.input(4)
    channel_shape = [-1] + [1] * (len(dims(at.x)) - 2)
    fixed_scale, fixed_variance = numpy_constant(scale), numpy_constant(variance)
    op = at.op
    if fixed_scale is not None and fixed_variance is not None:
        factor = fixed_scale / np.sqrt(fixed_variance.astype(np.float64) + epsilon)
        shaped = op.constant(factor.astype(fixed_scale.dtype).reshape(channel_shape))
        return at.times(shaped)
    factor_value = op.Div(scale, op.Sqrt(op.Add(variance, epsilon)))
    return Cotangent(op.Mul(at.g, op.Reshape(factor_value, channel_shape)))


def softmax(at: Pullback) -> ir.Value:
    """y = exp(x) / sum of exp(x) along an axis: y (g - sum of g y)."""
    op = at.op
    gy = op.Mul(at.g, at.y)
    total = op.ReduceSum(gy, [int(at.attribute("axis", -1))], keepdims=1)
    return op.Sub(gy, op.Mul(at.y, total))


def log_softmax(at: Pullback) -> ir.Value:
    """y = log softmax(x) along an axis: g - softmax(x) sum of g."""
    op = at.op
    total = op.ReduceSum(at.g, [int(at.attribute("axis", -1))], keepdims=1)
    return op.Sub(at.g, op.Mul(op.Exp(at.y), total))


def layer_normalization(at: Pullback) -> ir.Value:
    """y = z scale + bias, z = (x - mean) / sqrt(var + eps) over the axes from `axis` on.

    With h = g scale: x gets (h - mean(h) - z mean(h z)) / sqrt(var + eps).
    """
    if at.index != 0:
        raise at.unsupported("its parameters depend on the tensor to differentiate by")
    rank = len(dims(at.x))
    axes = list(range(int(at.attribute("axis", -1)) % rank, rank))
    h = at.op.Mul(at.g, at.input(1))
    return _through_statistics(at, h, axes, float(at.attribute("epsilon", 1e-5)))


def instance_normalization(at: Pullback) -> ir.Value:
    """y = z scale + bias per channel, z = x normalised over the spatial axes: as above."""
    if at.index != 0:
        raise at.unsupported("its parameters depend on the tensor to differentiate by")
    rank = len(dims(at.x))
    scale = at.op.Reshape(at.input(1), [-1] + [1] * (rank - 2))
    epsilon = float(at.attribute("epsilon", 1e-5))
    return _through_statistics(at, at.op.Mul(at.g, scale), list(range(2, rank)), epsilon)


def _through_statistics(at: Pullback, h: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    op = at.op
    centred = op.Sub(at.x, op.ReduceMean(at.x, axes, keepdims=1))
    variance = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
    deviation = op.Sqrt(op.Add(variance, epsilon))
    z = op.Div(centred, deviation)
    along = op.Mul(z, op.ReduceMean(op.Mul(h, z), axes, keepdims=1))
    inner = op.Sub(op.Sub(h, op.ReduceMean(h, axes, keepdims=1)), along)
    return op.Div(inner, deviation)


RULES: dict[str, Rule] = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": log_softmax,
    "Softmax": softmax,
}
