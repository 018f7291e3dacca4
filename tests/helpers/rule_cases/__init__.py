"""For every rule, how to draw uses of its operator."""

from __future__ import annotations

from helpers.rule_cases import (
    entries,
    layout,
    normalizations,
    operands,
    pointwise,
    reductions,
    windows,
)
from helpers.rule_cases.drawing import Cases

WINDOWS = windows.CASES.keys()

PIECEWISE_CONSTANT = frozenset({"Ceil", "Floor", "Hardmax", "Round", "Sign"})
"""No gradient: `test_rule_properties` proves that they give an error."""

STRAIGHT_THROUGH = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""No derivative to compare with: see `test_quantization_rules`."""

CASES: Cases = {
    **entries.CASES,
    **layout.CASES,
    **normalizations.CASES,
    **operands.CASES,
    **pointwise.CASES,
    **reductions.CASES,
    **windows.CASES,
}
