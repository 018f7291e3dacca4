"""The XML files of PASCAL VOC, which ILSVRC uses as well: one a photo, with boxes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from klieg.errors import InputError
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem
from klieg.evaluation.datasets.listing import ListedDataset
from klieg.evaluation.datasets.marked_objects import MarkedObject, as_box, regions_of
from klieg.images.formats import read_image


class VocXmlDataset(ListedDataset[MarkedObject]):
    """Photos with one XML file each."""

    def __init__(
        self, root: Path, *, images: Collection[str], files: Mapping[str, Path], origin: int
    ) -> None:
        """Read all XML files; one that is broken is listed, and its photo left out.

        Args:
            root: The folder to which names are relative.
            images: Names of the photos that are there.
            files: The XML file of each photo, whether or not it is there.
            origin: See `read_objects`.

        Raises:
            InputError: no photo is usable.
        """
        marked: dict[str, Sequence[MarkedObject] | None] = {}
        problems = []
        for name, path in files.items():
            try:
                marked[name] = read_objects(path, origin=origin) if path.is_file() else ()
            except InputError as error:
                problems.append(Problem("unreadable annotation", name, str(error)))
                marked[name] = None
        super().__init__(root, images=images, marked=marked, problems=problems)

    def _read(self, name: str, marks: Sequence[MarkedObject]) -> AnnotatedPhoto:
        photo = read_image(self.root / name)
        return AnnotatedPhoto(
            name=name, photo=photo, regions=regions_of(marks, [None] * len(marks))
        )


def read_objects(path: Path, *, origin: int) -> tuple[MarkedObject, ...]:
    """Read the objects of one photo.

    Args:
        path: The XML file. Its boxes include their last column and row.
        origin: The number of the first column and row: 1 in VOC, 0 in ILSVRC.

    Raises:
        InputError: the file is no such XML, or an object lacks a name or a box.
    """
    try:
        entries = ElementTree.parse(path).getroot().findall("object")
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f"cannot read {path} as XML: {error}") from error
    objects = []
    for number, entry in enumerate(entries, start=1):
        category, difficult = entry.findtext("name"), entry.findtext("difficult", "0").strip()
        try:
            if not category or not category.strip():
                raise InputError("it has no name")
            if difficult not in ("0", "1"):
                raise InputError(f"difficult is {difficult!r}, expected 0 or 1")
            sides = (entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            left, top, right, bottom = as_box(*sides)
        except InputError as error:
            raise InputError(f"{path}, object {number}: {error}") from error
        box = left - origin, top - origin, right - origin + 1, bottom - origin + 1
        objects.append(MarkedObject(category.strip(), box, difficult == "1"))
    return tuple(objects)
