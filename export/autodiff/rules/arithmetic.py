"""Sums and products with broadcasting."""

from __future__ import annotations

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


RULES: dict[str, Rule] = {
    "Add": add,
    "Div": div,
    "Exp": exp,
    "Mul": mul,
    "Neg": neg,
    "Sqrt": sqrt,
    "Sub": sub,
    "Sum": add,
}
