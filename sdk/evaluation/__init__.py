"""How good saliency maps are, measured on the file that is deployed. Needs the extra `eval`."""

from klieg.evaluation.classes import ClassFinder as ClassFinder
from klieg.evaluation.datasets import Dataset as Dataset
from klieg.evaluation.datasets import open_dataset as open_dataset
from klieg.evaluation.evaluate import evaluate as evaluate
from klieg.evaluation.metrics.localisation import localisation_error as localisation_error
from klieg.evaluation.metrics.pixel_precision import PixelPrecision as PixelPrecision
from klieg.evaluation.metrics.saliency_metric import saliency_metric as saliency_metric
from klieg.evaluation.options import EvaluationOptions as EvaluationOptions
from klieg.evaluation.summary import Score as Score
from klieg.evaluation.summary import Summary as Summary

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
