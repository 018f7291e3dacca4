"""Training of maskers: small networks that mark in one pass what a classifier looks at.

Needs the extra `train`.
"""

from klieg.training.model.trained_masker import TrainedMasker, load_masker
from klieg.training.run import train
from klieg.training.settings.configuration import options_from_table, read_options
from klieg.training.settings.options import TrainingOptions
from klieg.training.sweep import run_sweep

__all__ = [
    "TrainedMasker",
    "TrainingOptions",
    "load_masker",
    "options_from_table",
    "read_options",
    "run_sweep",
    "train",
]
