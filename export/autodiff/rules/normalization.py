"""Normalisation with statistics fixed at training time."""

from __future__ import annotations

import numpy as np

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


RULES: dict[str, Rule] = {"BatchNormalization": batch_normalization}
