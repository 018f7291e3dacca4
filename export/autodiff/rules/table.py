"""All rules in one table, by operator type."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from klieg.export.autodiff.engine import Rule
from klieg.export.autodiff.rules import (
    activation,
    arithmetic,
    convolution,
    gathering,
    linear,
    normalization,
    padding,
    pooling,
    quantization,
    reduction,
    resizing,
    selection,
    shape,
    trigonometry,
)

STANDARD_RULES: Mapping[str, Rule] = MappingProxyType(
    activation.RULES
    | arithmetic.RULES
    | convolution.RULES
    | gathering.RULES
    | linear.RULES
    | normalization.RULES
    | padding.RULES
    | pooling.RULES
    | quantization.RULES
    | reduction.RULES
    | resizing.RULES
    | selection.RULES
    | shape.RULES
    | trigonometry.RULES
)
