"""The plain layout: a folder of images and one table of objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from klieg.errors import InputError
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem
from klieg.evaluation.datasets.listing import ListedDataset, add_mark, photos_in
from klieg.evaluation.datasets.marked_objects import MarkedObject, as_box, regions_of, with_box
from klieg.evaluation.datasets.reading import read_labels, read_table
from klieg.images.formats import read_image

SIDES: Final = ("xmin", "ymin", "xmax", "ymax")


class _Mark(NamedTuple):
    object: MarkedObject
    instance: int | None
    """Its value in the photo's mask, None in a data set of boxes."""


class FolderDataset(ListedDataset[_Mark]):
    """`images/` with either masks or boxes; where both are there, the masks count.

    - Masks: `instances.csv` with the columns file, instance, category and, optionally, xmin, ymin,
      xmax, ymax; the pixels of an object have the value `instance` in `masks/STEM.png`, 0 is
      background. Without the four columns an object's box is the tight one round its pixels.
    - Boxes: `boxes.csv` with the columns file, name (the category), xmin, ymin, xmax, ymax.

    `file` is relative to `images/`. Boxes are in pixels from 0, the ends exclusive. A row that is
    wrong is listed, and its photo left out: objects that are missing would pass for background.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Read the table.

        Raises:
            InputError: there is no table, or it is no such table, or no photo is usable.
        """
        folder = Path(root)
        self._masked = (folder / "instances.csv").is_file()
        table = folder / ("instances.csv" if self._masked else "boxes.csv")
        if not table.is_file():
            raise InputError(
                f"{folder} has no instances.csv and no boxes.csv, expected one beside images/"
            )
        if self._masked and not (folder / "masks").is_dir():
            raise InputError(f"{folder} has instances.csv but no folder masks/, expected both")
        marked: dict[str, list[_Mark] | None] = {}
        problems: list[Problem] = []
        columns = ("file", "instance", "category") if self._masked else ("file", "name", *SIDES)
        for line, row in read_table(table, *columns):
            read = partial(_mark, row, masked=self._masked)
            where = f"{table.name}, line {line}"
            add_mark(marked, problems, f"images/{row['file']}", read, where=where)
        super().__init__(
            folder, images=photos_in(folder, "images"), marked=marked, problems=problems
        )

    def _read(self, name: str, marks: Sequence[_Mark]) -> AnnotatedPhoto:
        photo = read_image(self.root / name)
        problems: list[Problem] = []
        labels = None  # [H, W]
        if self._masked:
            path = PurePosixPath("masks", *PurePosixPath(name).parts[1:]).with_suffix(".png")
            try:
                labels = read_labels(self.root / path)
            except InputError as error:
                problems.append(Problem("unreadable annotation", name, str(error)))
        masks = [None if labels is None else labels == mark.instance for mark in marks]
        for mark, mask in zip(marks, masks, strict=True):
            if mask is not None and not mask.any():
                detail = f"no pixel of the mask has the value {mark.instance}"
                problems.append(Problem("unreadable annotation", name, detail))
        objects = [
            with_box(mark.object, mask, photo.shape[:2])
            for mark, mask in zip(marks, masks, strict=True)
        ]
        return AnnotatedPhoto(
            name=name, photo=photo, regions=regions_of(objects, masks), problems=tuple(problems)
        )


def _mark(row: dict[str, str | None], *, masked: bool) -> _Mark:
    title = "category" if masked else "name"
    category = row[title]
    if not category:
        raise InputError(f"{title} is empty, expected the object's category")
    boxed = any(side in row for side in SIDES)
    box = as_box(*(row.get(side) for side in SIDES)) if boxed else None
    return _Mark(MarkedObject(category, box), _instance(row["instance"]) if masked else None)


def _instance(text: str | None) -> int:
    if not text or not text.isdecimal() or int(text) == 0:
        raise InputError(f"instance is {text!r}, expected a whole number from 1")
    return int(text)
