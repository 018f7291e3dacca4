"""Quantisation without its rounding: what a quantised model stands for, in float64.

Rounding has no derivative to compare with. Without it the gradient that passes straight through is
the derivative; values are still cut off, half a step beyond both ends of their type, where rounding
would begin to move them by more than that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array = NDArray[np.float64]


class QuantizeLinear(OpRun):
    """Values in units of a scale, cut off but not rounded."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, zero: NDArray[Any] | None = None, axis: int = 1, **_: Any
    ) -> tuple[Array]:
        limits = np.iinfo(np.uint8 if zero is None else zero.dtype)
        values = x / _along(scale, x, axis) + (0 if zero is None else _along(zero, x, axis))
        return (values.clip(limits.min - 0.5, limits.max + 0.5),)


class DequantizeLinear(OpRun):
    """The way back."""

    op_domain = ""

    def _run(
        self,
        x: NDArray[Any],
        scale: Array,
        zero: NDArray[Any] | None = None,
        axis: int = 1,
        **_: Any,
    ) -> tuple[Array]:
        values = x.astype(np.float64) - (0 if zero is None else _along(zero, x, axis))
        return (values * _along(scale, x, axis),)


def _along(parameter: NDArray[Any], x: NDArray[Any], axis: int) -> Array:
    """Return a scale or zero point, one or one per entry of an axis, in the rank of x."""
    if parameter.size == 1:
        return parameter.astype(np.float64).reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.astype(np.float64).reshape(shape)
