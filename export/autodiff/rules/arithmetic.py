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


def _cosine(at: Pullback) -> ir.Value:
    """Return sqrt(1 - x^2), the cosine of the angle whose sine is x."""
    return at.op.Sqrt(at.op.Sub(1.0, at.op.Mul(at.x, at.x)))


OF_ONE_NUMBER: dict[str, Rule] = {
    "Abs": lambda at: at.op.Mul(at.g, at.op.Sign(at.x)),
    "Acos": lambda at: at.op.Neg(at.op.Div(at.g, _cosine(at))),
    "Acosh": lambda at: at.op.Div(at.g, at.op.Sqrt(at.op.Sub(at.op.Mul(at.x, at.x), 1.0))),
    "Asin": lambda at: at.op.Div(at.g, _cosine(at)),
    "Asinh": lambda at: at.op.Div(at.g, at.op.Sqrt(at.op.Add(at.op.Mul(at.x, at.x), 1.0))),
    "Atan": lambda at: at.op.Div(at.g, at.op.Add(at.op.Mul(at.x, at.x), 1.0)),
    "Atanh": lambda at: at.op.Div(at.g, at.op.Sub(1.0, at.op.Mul(at.x, at.x))),
    "Cos": lambda at: at.op.Neg(at.op.Mul(at.g, at.op.Sin(at.x))),
    "Cosh": lambda at: at.op.Mul(at.g, at.op.Sinh(at.x)),
    "Exp": lambda at: at.op.Mul(at.g, at.y),
    "Log": lambda at: at.op.Div(at.g, at.x),
    "Reciprocal": lambda at: at.op.Neg(at.op.Mul(at.g, at.op.Mul(at.y, at.y))),
    "Sin": lambda at: at.op.Mul(at.g, at.op.Cos(at.x)),
    "Sinh": lambda at: at.op.Mul(at.g, at.op.Cosh(at.x)),
    "Sqrt": lambda at: at.op.Div(at.g, at.op.Mul(at.y, 2.0)),
    "Tan": lambda at: at.op.Add(at.g, at.op.Mul(at.g, at.op.Mul(at.y, at.y))),
}
"""Functions of one number: g times the derivative, from y where that is shorter."""

RULES: dict[str, Rule] = OF_ONE_NUMBER | {
    "Add": add,
    "Ceil": piecewise_constant,
    "Div": div,
    "Floor": piecewise_constant,
    "Hardmax": piecewise_constant,
    "Max": extreme,
    "Mean": mean,
    "Min": extreme,
    "Mul": mul,
    "Neg": neg,
    "Pow": power,
    "Round": piecewise_constant,
    "Sign": piecewise_constant,
    "Sub": sub,
    "Sum": add,
    "Where": where,
}
