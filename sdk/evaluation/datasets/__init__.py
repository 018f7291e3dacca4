"""Data sets with objects that people marked, read one photo at a time."""

from klieg.evaluation.datasets.annotated import AnnotatedPhoto as AnnotatedPhoto
from klieg.evaluation.datasets.annotated import Dataset as Dataset
from klieg.evaluation.datasets.annotated import Problem as Problem
from klieg.evaluation.datasets.annotated import Region as Region
from klieg.evaluation.datasets.coco import CocoDataset as CocoDataset
from klieg.evaluation.datasets.dicom import DicomDataset as DicomDataset
from klieg.evaluation.datasets.folder import FolderDataset as FolderDataset
from klieg.evaluation.datasets.ilsvrc import IlsvrcDataset as IlsvrcDataset
from klieg.evaluation.datasets.mapping import class_of as class_of
from klieg.evaluation.datasets.mapping import read_mapping as read_mapping
from klieg.evaluation.datasets.mapping import resolve_mapping as resolve_mapping
from klieg.evaluation.datasets.opening import Layout as Layout
from klieg.evaluation.datasets.opening import open_dataset as open_dataset
from klieg.evaluation.datasets.voc import VocDataset as VocDataset
from klieg.evaluation.datasets.wsol import WsolDataset as WsolDataset

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
