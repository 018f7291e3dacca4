"""Data sets with objects that people marked, read one photo at a time."""

from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Dataset, Problem, Region
from klieg.evaluation.datasets.classes import class_of, read_mapping, resolve_mapping
from klieg.evaluation.datasets.coco import CocoDataset
from klieg.evaluation.datasets.dicom import DicomDataset
from klieg.evaluation.datasets.folder import FolderDataset
from klieg.evaluation.datasets.opening import Layout, open_dataset
from klieg.evaluation.datasets.voc import IlsvrcDataset, VocDataset
from klieg.evaluation.datasets.wsol import WsolDataset

__all__ = [
    "AnnotatedPhoto",
    "CocoDataset",
    "Dataset",
    "DicomDataset",
    "FolderDataset",
    "IlsvrcDataset",
    "Layout",
    "Problem",
    "Region",
    "VocDataset",
    "WsolDataset",
    "class_of",
    "open_dataset",
    "read_mapping",
    "resolve_mapping",
]
