"""Circular and hyperbolic functions."""

from __future__ import annotations

import onnx_ir as ir

from klieg.export.autodiff.engine import Pullback, Rule


def sin(at: Pullback) -> ir.Value:
    """y = sin(x): g cos(x)."""
    return at.op.Mul(at.g, at.op.Cos(at.x))


def cos(at: Pullback) -> ir.Value:
    """y = cos(x): -g sin(x)."""
    return at.op.Neg(at.op.Mul(at.g, at.op.Sin(at.x)))


def tan(at: Pullback) -> ir.Value:
    """y = tan(x): g (1 + y^2)."""
    return at.op.Add(at.g, at.op.Mul(at.g, at.op.Mul(at.y, at.y)))


def asin(at: Pullback) -> ir.Value:
    """y = asin(x): g / sqrt(1 - x^2)."""
    return at.op.Div(at.g, at.op.Sqrt(at.op.Sub(1.0, at.op.Mul(at.x, at.x))))


def acos(at: Pullback) -> ir.Value:
    """y = acos(x): -g / sqrt(1 - x^2)."""
    return at.op.Neg(asin(at))


def atan(at: Pullback) -> ir.Value:
    """y = atan(x): g / (1 + x^2)."""
    return at.op.Div(at.g, at.op.Add(at.op.Mul(at.x, at.x), 1.0))


def sinh(at: Pullback) -> ir.Value:
    """y = sinh(x): g cosh(x)."""
    return at.op.Mul(at.g, at.op.Cosh(at.x))


def cosh(at: Pullback) -> ir.Value:
    """y = cosh(x): g sinh(x)."""
    return at.op.Mul(at.g, at.op.Sinh(at.x))


def asinh(at: Pullback) -> ir.Value:
    """y = asinh(x): g / sqrt(x^2 + 1)."""
    return at.op.Div(at.g, at.op.Sqrt(at.op.Add(at.op.Mul(at.x, at.x), 1.0)))


def acosh(at: Pullback) -> ir.Value:
    """y = acosh(x): g / sqrt(x^2 - 1)."""
    return at.op.Div(at.g, at.op.Sqrt(at.op.Sub(at.op.Mul(at.x, at.x), 1.0)))


def atanh(at: Pullback) -> ir.Value:
    """y = atanh(x): g / (1 - x^2)."""
    return at.op.Div(at.g, at.op.Sub(1.0, at.op.Mul(at.x, at.x)))


RULES: dict[str, Rule] = {
    "Acos": acos,
    "Acosh": acosh,
    "Asin": asin,
    "Asinh": asinh,
    "Atan": atan,
    "Atanh": atanh,
    "Cos": cos,
    "Cosh": cosh,
    "Sin": sin,
    "Sinh": sinh,
    "Tan": tan,
}
