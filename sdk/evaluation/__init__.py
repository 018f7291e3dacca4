"""Metrics of saliency maps against objects that people marked."""

from klieg.evaluation.localisation import localisation_error as localisation_error
from klieg.evaluation.pixel_precision import PixelPrecision as PixelPrecision
from klieg.evaluation.saliency_metric import saliency_metric as saliency_metric

__all__ = ["PixelPrecision", "localisation_error", "saliency_metric"]
