"""Data sets of any layout, by the name of the layout."""

from __future__ import annotations

import os
from typing import Literal, get_args

from klieg.errors import OptionError
from klieg.evaluation.datasets.annotated import Dataset
from klieg.evaluation.datasets.coco import CocoDataset
from klieg.evaluation.datasets.dicom import DicomDataset
from klieg.evaluation.datasets.folder import FolderDataset
from klieg.evaluation.datasets.voc import IlsvrcDataset, VocDataset
from klieg.evaluation.datasets.wsol import WsolDataset

Layout = Literal["folder", "voc", "coco", "ilsvrc", "wsol", "dicom"]
FilePath = str | os.PathLike[str]


def open_dataset(
    path: FilePath,
    *,
    layout: Layout,
    split: str | None = None,
    annotations: FilePath | None = None,
) -> Dataset:
    """Open a data set; the classes of this folder describe the layouts.

    Args:
        path: The data set's folder; for "coco" and "wsol" that of its photos.
        layout: How it is stored.
        split: For "voc" and "wsol" only: which part, "test" unless given.
        annotations: For "coco" and "wsol" only, and needed there: its JSON file, or the folder
            of its splits.

    Raises:
        OptionError: there is no such layout, or an option is missing or does not belong to it.
        InputError: it is no such data set, or has no usable photo.
    """
    options = {"split": split, "annotations": annotations}
    allowed = {"voc": ("split",), "coco": ("annotations",), "wsol": ("split", "annotations")}
    for name, value in options.items():
        if value is not None and name not in allowed.get(layout, ()):
            raise OptionError(f"{name} is {value!r}, but the layout {layout!r} has no such option")
    match layout:
        case "folder":
            return FolderDataset(path)
        case "voc":
            return VocDataset(path, split or "test")
        case "coco":
            return CocoDataset(path, _needed(annotations, layout))
        case "ilsvrc":
            return IlsvrcDataset(path)
        case "wsol":
            return WsolDataset(path, _needed(annotations, layout), split or "test")
        case "dicom":
            return DicomDataset(path)
        case _:
            layouts = ", ".join(get_args(Layout))
            raise OptionError(f"layout is {layout!r}, expected one of {layouts}")


def _needed(annotations: FilePath | None, layout: Layout) -> FilePath:
    if annotations is None:
        raise OptionError(f"the layout {layout!r} needs annotations, got none")
    return annotations
