"""How good saliency maps are, measured on the file that is deployed. Needs the extra `eval`."""

from klieg.evaluation.datasets import Dataset, open_dataset
from klieg.evaluation.datasets.classes import ClassFinder
from klieg.evaluation.evaluate import evaluate
from klieg.evaluation.metrics.localisation import localisation_error
from klieg.evaluation.metrics.pixel_precision import PixelPrecision
from klieg.evaluation.metrics.saliency_metric import saliency_metric
from klieg.evaluation.options import EvaluationOptions
from klieg.evaluation.summary import Score, Summary

__all__ = [
    "ClassFinder",
    "Dataset",
    "EvaluationOptions",
    "PixelPrecision",
    "Score",
    "Summary",
    "evaluate",
    "localisation_error",
    "open_dataset",
    "saliency_metric",
]
