"""Arithmetic: sums and products with broadcasting, functions of one number."""

from __future__ import annotations

import functools

import onnx_ir as ir

from klieg.export.autodiff.engine import Cotangent, Pullback, Rule


def add(at: Pullback) -> Cotangent:
    """y = sum of x_i: every x_i gets g."""
    return at.summed_to_input(at.compact)


def sub(at: Pullback) -> Cotangent:
    """y = a - b: a gets g, b gets -g."""
    cotangent = at.compact
    if at.index == 1:
        cotangent = Cotangent(at.op.Neg(cotangent.value), cotangent.constant_axes)
    return at.summed_to_input(cotangent)


def mul(at: Pullback) -> Cotangent:
    """y = a b: a gets g b, b gets g a."""
    return at.summed_to_input(at.times(at.input(1 - at.index)))


def div(at: Pullback) -> Cotangent:
    """y = a / b: a gets g / b, b gets -g y / b."""
    if at.index == 0:
        return at.summed_to_input(at.times(at.input(1), operator="Div"))
    negative = at.op.Neg(at.op.Mul(at.g, at.y))
    return at.summed_to_input(Cotangent(at.op.Div(negative, at.input(1))))


def neg(at: Pullback) -> Cotangent:
    """y = -x: x gets -g."""
    return Cotangent(at.op.Neg(at.compact.value), at.compact.constant_axes)


def sqrt(at: Pullback) -> ir.Value:
    """y = sqrt(x): x gets g / (2 y)."""
    return at.op.Div(at.g, at.op.Mul(at.y, 2.0))


def exp(at: Pullback) -> ir.Value:
    """y = exp(x): x gets g y."""
    return at.op.Mul(at.g, at.y)


def log(at: Pullback) -> ir.Value:
    """y = log(x): g / x."""
    return at.op.Div(at.g, at.x)


def reciprocal(at: Pullback) -> ir.Value:
    """y = 1 / x: -g y^2."""
    return at.op.Neg(at.op.Mul(at.g, at.op.Mul(at.y, at.y)))


def absolute(at: Pullback) -> ir.Value:
    """y = |x|: g sign(x)."""
    return at.op.Mul(at.g, at.op.Sign(at.x))


def power(at: Pullback) -> Cotangent:
    """y = x^p: x gets g p x^(p - 1), p gets g y log(x)."""
    op, x, p = at.op, at.input(0), at.input(1)
    if at.index == 1:
        return at.summed_to_input(Cotangent(op.Mul(at.g, op.Mul(at.y, op.Log(x)))))
    if p.dtype != x.dtype:
        p = op.Cast(p, to=int(x.dtype or ir.DataType.FLOAT))
    slope = op.Mul(p, op.Pow(x, op.Sub(p, 1.0)))
    return at.summed_to_input(Cotangent(op.Mul(at.g, slope)))


def extreme(at: Pullback) -> Cotangent:
    """y = maximum or minimum of the inputs: g to the one that equals y, in parts if several do."""
    op = at.op
    dtype = int(at.dtype)
    inputs = [value for value in at.node.inputs if value is not None]
    hits = [op.Cast(op.Equal(value, at.y), to=dtype) for value in inputs]
    ties = functools.reduce(op.Add, hits)
    return at.summed_to_input(Cotangent(op.Div(op.Mul(at.g, hits[at.index]), ties)))


def mean(at: Pullback) -> Cotangent:
    """y = mean of n inputs: every one gets g / n."""
    share = at.op.Div(at.compact.value, float(len(at.node.inputs)))
    return at.summed_to_input(Cotangent(share, at.compact.constant_axes))


def where(at: Pullback) -> Cotangent:
    """y = a where the condition holds, else b: each gets g where it was taken."""
    taken = (at.g, 0.0) if at.index == 1 else (0.0, at.g)
    return at.summed_to_input(Cotangent(at.op.Where(at.input(0), *taken)))


def piecewise_constant(at: Pullback) -> None:
    """y does not change with x but in jumps: zero."""


def acos(at: Pullback) -> ir.Value:
    """y = acos(x): -g / sqrt(1 - x^2)."""
    return at.op.Neg(asin(at))


def asin(at: Pullback) -> ir.Value:
    """y = asin(x): g / sqrt(1 - x^2)."""
    return at.op.Div(at.g, at.op.Sqrt(at.op.Sub(1.0, at.op.Mul(at.x, at.x))))


CIRCULAR: dict[str, Rule] = {
    "Acos": acos,
    "Acosh": lambda at: at.op.Div(at.g, at.op.Sqrt(at.op.Sub(at.op.Mul(at.x, at.x), 1.0))),
    "Asin": asin,
    "Asinh": lambda at: at.op.Div(at.g, at.op.Sqrt(at.op.Add(at.op.Mul(at.x, at.x), 1.0))),
    "Atan": lambda at: at.op.Div(at.g, at.op.Add(at.op.Mul(at.x, at.x), 1.0)),
    "Atanh": lambda at: at.op.Div(at.g, at.op.Sub(1.0, at.op.Mul(at.x, at.x))),
    "Cos": lambda at: at.op.Neg(at.op.Mul(at.g, at.op.Sin(at.x))),
    "Cosh": lambda at: at.op.Mul(at.g, at.op.Sinh(at.x)),
    "Sin": lambda at: at.op.Mul(at.g, at.op.Cos(at.x)),
    "Sinh": lambda at: at.op.Mul(at.g, at.op.Cosh(at.x)),
    "Tan": lambda at: at.op.Add(at.g, at.op.Mul(at.g, at.op.Mul(at.y, at.y))),
}
"""Circular and hyperbolic functions: g times the derivative."""

RULES: dict[str, Rule] = CIRCULAR | {
    "Abs": absolute,
    "Add": add,
    "Ceil": piecewise_constant,
    "Div": div,
    "Exp": exp,
    "Floor": piecewise_constant,
    "Hardmax": piecewise_constant,
    "Log": log,
    "Max": extreme,
    "Mean": mean,
    "Min": extreme,
    "Mul": mul,
    "Neg": neg,
    "Pow": power,
    "Reciprocal": reciprocal,
    "Round": piecewise_constant,
    "Sign": piecewise_constant,
    "Sqrt": sqrt,
    "Sub": sub,
    "Sum": add,
    "Where": where,
}
