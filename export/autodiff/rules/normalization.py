"""Normalisation, with statistics fixed at training time or those of the sample itself."""

from __future__ import annotations

import onnx_ir as ir

from klieg.export.autodiff.emitter import dims, numpy_constant
from klieg.export.autodiff.engine import Cotangent, Pullback, Rule


def batch_normalization(at: Pullback) -> Cotangent:
    """y = (x - mean) / sqrt(var + eps) * scale + bias per channel: g scale / sqrt(var + eps)."""
    at.require(
        not at.attribute("training_mode", 0),
        "it is in training mode; export the model in evaluation mode",
    )
    at.require(at.index == 0, "its parameters depend on the tensor to differentiate by")
    epsilon = float(at.attribute("epsilon", 1e-5))
    scale, variance = at.input(1), at.input(4)
    channel_shape = [-1] + [1] * (len(dims(at.x)) - 2)
    op = at.op
    if numpy_constant(scale) is not None and numpy_constant(variance) is not None:
        return at.times(op.derived("slope", scale, variance, epsilon=epsilon, shape=channel_shape))
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
    at.require(at.index == 0, "its parameters depend on the tensor to differentiate by")
    rank = len(dims(at.x))
    axes = list(range(int(at.attribute("axis", -1)) % rank, rank))
    h = at.op.Mul(at.g, at.input(1))
    return _through_statistics(at, h, axes, float(at.attribute("epsilon", 1e-5)))


def instance_normalization(at: Pullback) -> ir.Value:
    """y = z scale + bias per channel, z = x normalised over the spatial axes: as above."""
    at.require(at.index == 0, "its parameters depend on the tensor to differentiate by")
    rank = len(dims(at.x))
    scale = at.op.Reshape(at.input(1), [-1] + [1] * (rank - 2))
    epsilon = float(at.attribute("epsilon", 1e-5))
    return _through_statistics(at, at.op.Mul(at.g, scale), list(range(2, rank)), epsilon)


def lp_normalization(at: Pullback) -> ir.Value:
    """y = x / n, n the L1 or L2 norm along an axis: (g - n' sum of g y) / n, n' = sign(x) or y."""
    op = at.op
    axis, order = int(at.attribute("axis", -1)), int(at.attribute("p", 2))
    norm = (op.ReduceL1 if order == 1 else op.ReduceL2)(at.x, [axis], keepdims=1)
    along = op.ReduceSum(op.Mul(at.g, at.y), [axis], keepdims=1)
    slope = op.Sign(at.x) if order == 1 else at.y
    return op.Div(op.Sub(at.g, op.Mul(slope, along)), norm)


def lrn(at: Pullback) -> ir.Value:
    """y = x b^-beta, b = bias + alpha / size * (sum of x^2 over neighbouring channels).

    g b^-beta - 2 alpha beta / size * x * (sum of g y / b over the channels that x is neighbour of).
    """
    op = at.op
    size = int(at.attribute("size", 1))
    alpha, beta = float(at.attribute("alpha", 1e-4)), float(at.attribute("beta", 0.75))
    front, behind = (size - 1) // 2, size // 2
    squares = _sum_over_channels(at, op.Mul(at.x, at.x), front, behind)
    b = op.Add(op.Mul(squares, alpha / size), float(at.attribute("bias", 1.0)))
    neighbours = _sum_over_channels(at, op.Div(op.Mul(at.g, at.y), b), behind, front)
    direct = op.Mul(at.g, op.Pow(b, -beta))
    return op.Sub(direct, op.Mul(op.Mul(at.x, neighbours), 2 * alpha * beta / size))


def _sum_over_channels(at: Pullback, value: ir.Value, front: int, behind: int) -> ir.Value:
    """Sum each channel with `front` channels before it and `behind` channels after it."""
    op = at.op
    size = front + 1 + behind
    image = op.Unsqueeze(op.Reshape(value, [0, 0, -1]), [1])  # [batch, 1, channels, cells]
    mean = op.AveragePool(
        image, kernel_shape=[size, 1], pads=[front, 0, behind, 0], count_include_pad=1
    )
    return op.reshape(op.Mul(mean, float(size)), at.x)


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
    "LRN": lrn,
    "LogSoftmax": log_softmax,
    "LpNormalization": lp_normalization,
    "Softmax": softmax,
}
