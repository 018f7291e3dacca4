"""For every rule, how to draw uses of its operator."""

from __future__ import annotations

from rule_cases import operands, pointwise, reductions, windows
from rule_cases.drawing import Cases

WINDOWS = windows.CASES.keys()

PIECEWISE_CONSTANT = frozenset({"Ceil", "Floor", "Round", "Sign"})

CASES: Cases = {
    **operands.CASES,
    **pointwise.CASES,
    **reductions.CASES,
    **windows.CASES,
}
