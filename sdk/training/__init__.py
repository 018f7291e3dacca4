"""Training maskers: small heads on a classifier that show in one pass what it looks at.

Needs the extra `train`.
"""

from klieg.training.model.trained_masker import TrainedMasker as TrainedMasker
from klieg.training.model.trained_masker import load_masker as load_masker
from klieg.training.run import train as train
from klieg.training.settings.configuration import options_from_table as options_from_table
from klieg.training.settings.configuration import read_options as read_options
from klieg.training.settings.options import TrainingOptions as TrainingOptions
from klieg.training.sweep import run_sweep as run_sweep

__all__ = [
    "TrainedMasker",
    "TrainingOptions",
    "load_masker",
    "options_from_table",
    "read_options",
    "run_sweep",
    "train",
]
