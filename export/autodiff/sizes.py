"""Arithmetic with sizes of axes, which are numbers where the axis is fixed and values else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from klieg.export.autodiff.emitter import Emitter

Size = NDArray[np.int64] | ir.Value
"""[n] int64: an array if all n sizes are fixed, else a value of the graph."""


def add(op: Emitter, a: Size, b: Size) -> Size:
    """Return a + b."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a + b
    if isinstance(b, np.ndarray) and not b.any():
        return a
    if isinstance(a, np.ndarray) and not a.any():
        return b
    return op.Add(a, b)


def subtract(op: Emitter, a: Size, b: Size) -> Size:
    """Return a - b."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a - b
    return a if isinstance(b, np.ndarray) and not b.any() else op.Sub(a, b)


def multiply(op: Emitter, a: Size, factor: int) -> Size:
    """Return a * factor."""
    if isinstance(a, np.ndarray):
        return a * factor
    return a if factor == 1 else op.Mul(a, [factor])


def join(op: Emitter, parts: Sequence[Size]) -> Size:
    """Return all sizes in one row."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    return op.Concat(*parts, axis=0)
