"""Sanity checks that retrain: on photos without their salient pixels, or with shuffled labels."""

from klieg.training.sanity.label_shuffling import (
    DataRandomisation,
    data_randomisation,
    shuffled_labels,
)
from klieg.training.sanity.remove_and_retrain import RoarResult, roar

__all__ = ["DataRandomisation", "RoarResult", "data_randomisation", "roar", "shuffled_labels"]
