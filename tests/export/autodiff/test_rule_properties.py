"""Every rule against finite differences in float64, over drawn attributes, shapes and sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.directional_check import Case, check_case
from helpers.rule_cases import CASES, PIECEWISE_CONSTANT, STRAIGHT_THROUGH, WINDOWS
from klieg.errors import GradientError
from klieg.export.autodiff.rules.tables import STANDARD_RULES

EXAMPLES = 12
MORE_EXAMPLES = 150  # for the rules with the most geometry


def test_every_rule_is_proven() -> None:
    assert CASES.keys() | PIECEWISE_CONSTANT | STRAIGHT_THROUGH == STANDARD_RULES.keys(), (
        "a rule needs an entry in tests/helpers/rule_cases"
    )


@pytest.mark.parametrize("op_type", sorted(CASES.keys() - WINDOWS))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_rule(op_type: str, data: st.DataObject) -> None:
    check_case(op_type, data.draw(CASES[op_type]))


@pytest.mark.parametrize("op_type", sorted(WINDOWS))
@settings(
    max_examples=MORE_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_window_rule(op_type: str, data: st.DataObject) -> None:
    check_case(op_type, data.draw(CASES[op_type]))


@pytest.mark.parametrize("op_type", sorted(PIECEWISE_CONSTANT))
def test_piecewise_constant_operator_is_an_error(op_type: str) -> None:
    with pytest.raises(GradientError, match="zero everywhere"):
        check_case(op_type, Case({"x": np.array([[0.3, 1.7]])}))
