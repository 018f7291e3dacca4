"""All rules in one table, by operator type."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from klieg.export.autodiff.engine import Rule
from klieg.export.autodiff.rules import (
    activation,
    arithmetic,
    convolution,
    linear,
    normalization,
    pooling,
    reduction,
    selection,
    shape,
)

STANDARD_RULES: Mapping[str, Rule] = MappingProxyType(
    activation.RULES
    | arithmetic.RULES
    | convolution.RULES
    | linear.RULES
    | normalization.RULES
    | pooling.RULES
    | reduction.RULES
    | selection.RULES
    | shape.RULES
)
