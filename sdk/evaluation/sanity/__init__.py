"""Sanity checks: whether a map depends on what the model learned, and what it is good for."""

from klieg.evaluation.sanity.adversarial import (
    AttackResult,
    guided_attack,
    norm_reduction,
    restoration_sanity,
)
from klieg.evaluation.sanity.randomisation import RandomisationResult, randomisation_test

__all__ = [
    "AttackResult",
    "RandomisationResult",
    "guided_attack",
    "norm_reduction",
    "randomisation_test",
    "restoration_sanity",
]
