"""Pointwise nonlinearities.

Where possible the derivative is taken from the output y, not from the input x: engines then remain
free to fuse the activation into the operator before it.
"""

from __future__ import annotations

import math
from typing import Final

import onnx_ir as ir

from klieg.export.autodiff.engine import Cotangent, Pullback, Rule

_FLOAT: Final = ir.DataType.FLOAT


def relu(at: Pullback) -> ir.Value:
    """y = max(x, 0): g where y > 0."""
    return _where(at, at.op.Greater(at.y, 0.0))


def leaky_relu(at: Pullback) -> ir.Value:
    """y = x where x >= 0, else alpha x: g, or alpha g."""
    slope = at.op.Mul(at.compact.value, float(at.attribute("alpha", 0.01)))
    return at.op.Where(at.op.Less(at.x, 0.0), slope, at.compact.value)


def clip(at: Pullback) -> ir.Value | None:
    """y = min(max(x, low), high): g where low < y < high."""
    at.require(at.index == 0, "the limits depend on the tensor to differentiate by")
    low, high = at.optional_input(1), at.optional_input(2)
    inside = [at.op.Greater(at.y, low)] if low is not None else []
    inside += [at.op.Less(at.y, high)] if high is not None else []
    if not inside:
        return at.g
    return _where(at, inside[0] if len(inside) == 1 else at.op.And(*inside))


def sigmoid(at: Pullback) -> ir.Value:
    """y = 1 / (1 + exp(-x)): g y (1 - y)."""
    return at.op.Mul(at.compact.value, at.op.Mul(at.y, at.op.Sub(1.0, at.y)))


def tanh(at: Pullback) -> ir.Value:
    """y = tanh(x): g (1 - y^2)."""
    g = at.compact.value
    return at.op.Sub(g, at.op.Mul(g, at.op.Mul(at.y, at.y)))


def hard_sigmoid(at: Pullback) -> ir.Value:
    """y = min(max(alpha x + beta, 0), 1): alpha g where 0 < y < 1."""
    alpha = float(at.attribute("alpha", 0.2))
    inside = at.op.And(at.op.Greater(at.y, 0.0), at.op.Less(at.y, 1.0))
    return at.op.Where(inside, at.op.Mul(at.compact.value, alpha), 0.0)


def hard_swish(at: Pullback) -> ir.Value:
    """y = x min(max(x / 6 + 1/2, 0), 1): 0 up to -3, g from 3 on, g (x / 3 + 1/2) between."""
    between = at.op.Add(at.op.Div(at.x, 3.0), 0.5)
    slope = at.op.Where(at.op.GreaterOrEqual(at.x, 3.0), 1.0, between)
    slope = at.op.Where(at.op.LessOrEqual(at.x, -3.0), 0.0, slope)
    return at.op.Mul(at.compact.value, slope)


def elu(at: Pullback) -> ir.Value:
    """y = x where x > 0, else alpha (exp(x) - 1): g, or g (y + alpha)."""
    return _scaled_elu(at, alpha=float(at.attribute("alpha", 1.0)), scale=1.0)


def selu(at: Pullback) -> ir.Value:
    """y = gamma x where x > 0, else gamma alpha (exp(x) - 1): g gamma, or g (y + gamma alpha)."""
    alpha = float(at.attribute("alpha", 1.67326319217681884765625))
    gamma = float(at.attribute("gamma", 1.05070102214813232421875))
    return _scaled_elu(at, alpha=gamma * alpha, scale=gamma)


def celu(at: Pullback) -> ir.Value:
    """y = x where x > 0, else alpha (exp(x / alpha) - 1): g, or g (y / alpha + 1)."""
    slope = at.op.Add(at.op.Div(at.y, float(at.attribute("alpha", 1.0))), 1.0)
    return at.op.Mul(at.compact.value, at.op.Where(at.op.Greater(at.y, 0.0), 1.0, slope))


def prelu(at: Pullback) -> Cotangent:
    """y = x where x >= 0, else s x with a learned s: x gets g or g s."""
    at.require(at.index == 0, "its slope depends on the tensor to differentiate by")
    op, g = at.op, at.compact.value
    below = op.Mul(g, at.input(1))
    return Cotangent(op.Where(op.Less(at.x, 0.0), below, g))


def softplus(at: Pullback) -> ir.Value:
    """y = log(1 + exp(x)): g sigmoid(x)."""
    return at.op.Mul(at.compact.value, at.op.Sigmoid(at.x))


def softsign(at: Pullback) -> ir.Value:
    """y = x / (1 + |x|): g / (1 + |x|)^2."""
    bottom = at.op.Add(at.op.Abs(at.x), 1.0)
    return at.op.Div(at.compact.value, at.op.Mul(bottom, bottom))


def erf(at: Pullback) -> ir.Value:
    """y = erf(x): g 2 / sqrt(pi) exp(-x^2)."""
    bell = at.op.Exp(at.op.Neg(at.op.Mul(at.x, at.x)))
    return at.op.Mul(at.compact.value, at.op.Mul(bell, 2 / math.sqrt(math.pi)))


def mish(at: Pullback) -> ir.Value:
    """y = x t with t = tanh(softplus(x)): g (t + x (1 - t^2) sigmoid(x))."""
    op, x = at.op, at.x
    t = op.Tanh(op.Softplus(x))
    inner = op.Mul(op.Mul(x, op.Sub(1.0, op.Mul(t, t))), op.Sigmoid(x))
    return op.Mul(at.compact.value, op.Add(t, inner))


def _scaled_elu(at: Pullback, *, alpha: float, scale: float) -> ir.Value:
    op = at.op
    slope = op.Where(op.Greater(at.y, 0.0), scale, op.Add(at.y, alpha))
    return op.Mul(at.compact.value, slope)


def _where(at: Pullback, condition: ir.Value) -> ir.Value:
    """Return g where the condition (of y's shape) holds, else 0; constant axes broadcast.

    As a product, which ONNX Runtime computes faster than Where.
    """
    return at.op.Mul(at.compact.value, at.op.Cast(condition, to=int(at.y.dtype or _FLOAT)))


RULES: dict[str, Rule] = {
    "Celu": celu,
    "Clip": clip,
    "Elu": elu,
    "Erf": erf,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Mish": mish,
    "PRelu": prelu,
    "Relu": relu,
    "Selu": selu,
    "Sigmoid": sigmoid,
    "Softplus": softplus,
    "Softsign": softsign,
    "Tanh": tanh,
}
