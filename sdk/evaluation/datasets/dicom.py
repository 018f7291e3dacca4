"""A folder of DICOM files with masks beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from klieg.errors import InputError
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem
from klieg.evaluation.datasets.dicom_pixels import read_dicom
from klieg.evaluation.datasets.listing import ListedDataset
from klieg.evaluation.datasets.marked_objects import MarkedObject, regions_of, with_box
from klieg.evaluation.datasets.reading import read_labels, read_table

CATEGORY: Final = "object"
SUFFIXES: Final = (".dcm", ".dicom")


class DicomDataset(ListedDataset[MarkedObject]):
    """DICOM files at any depth below a root, each with one frame and one mask.

    The mask of `a/b.dcm` is `masks/a/b.png`, above 0 on the object; its tight box is the object's.
    Files without the suffix are found by their content. `masks.csv`, if there, has the columns
    file (path below the root) and category; without it the category is "object".
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """List files and masks.

        Raises:
            InputError: there is no such folder, `masks.csv` is no such table, or no photo is
                usable.
        """
        folder = Path(root)
        if not (folder / "masks").is_dir():
            raise InputError(f"{folder} has no folder masks/, expected one with a PNG file a photo")
        images = _dicom_files(folder)
        table = folder / "masks.csv"
        rows = read_table(table, "file", "category") if table.is_file() else None
        categories = None if rows is None else {row["file"]: row["category"] for _, row in rows}
        by_mask = {_mask(name): name for name in images}
        # What only the table names is compared with images and masks like everything else.
        marked: dict[str, Sequence[MarkedObject] | None] = {
            str(name): () for name in categories or ()
        }
        problems = []
        for path in (folder / "masks").rglob("*.png"):
            mask = path.relative_to(folder).as_posix()
            name = by_mask.get(mask, mask)
            category = CATEGORY if categories is None else categories.get(name)
            if name in images and not category:
                detail = "masks.csv gives it no category"
                problems.append(Problem("unreadable annotation", name, detail))
                marked[name] = None
            else:
                marked[name] = (MarkedObject(category or CATEGORY),)
        super().__init__(folder, images=images, marked=marked, problems=problems)

    def _read(self, name: str, marks: Sequence[MarkedObject]) -> AnnotatedPhoto:
        photo = read_dicom(self.root / name)
        problems = []
        mask = None
        try:
            mask = read_labels(self.root / _mask(name)) > 0  # [H, W]
            if not mask.any():
                raise InputError("no pixel of the mask is above 0")
        except InputError as error:
            problems.append(Problem("unreadable annotation", name, str(error)))
        objects = [with_box(mark, mask, photo.shape[:2]) for mark in marks]
        return AnnotatedPhoto(
            name=name,
            photo=photo,
            regions=regions_of(objects, [mask] * len(objects)),
            problems=tuple(problems),
        )


def _mask(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return f"masks/{stem if suffix.lower() in SUFFIXES else name}.png"


def _dicom_files(root: Path) -> frozenset[str]:
    from pydicom.misc import is_dicom

    return frozenset(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file()
        and path.name != "DICOMDIR"  # a list of files
        and (path.suffix.lower() in SUFFIXES or is_dicom(path))
    )
