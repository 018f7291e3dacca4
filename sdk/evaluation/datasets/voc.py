"""PASCAL VOC, and ImageNet's localisation task (ILSVRC): one XML file a photo, with boxes."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from klieg.errors import InputError
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem
from klieg.evaluation.datasets.listing import ListedDataset, photos_in
from klieg.evaluation.datasets.marked_objects import MarkedObject, as_box, regions_of
from klieg.evaluation.datasets.reading import read_lines
from klieg.images.formats import read_image

IMAGES = "Data/CLS-LOC/val"
ANNOTATIONS = "Annotations/CLS-LOC/val"


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


class VocDataset(VocXmlDataset):
    """`Annotations/ID.xml`, `JPEGImages/ID.jpg`, and `ImageSets/Main/SPLIT.txt` with one ID a line.

    The first pixel of VOC's boxes is 1, 1 and the last one belongs to the box (Everingham and Winn
    2007, development kit): 1, 1, 5, 5 becomes 0, 0, 5, 5 here.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "test") -> None:
        """Read the annotations of a split.

        Args:
            root: The folder of one edition, as VOCdevkit/VOC2007.
            split: "test", "trainval", "train" or "val".

        Raises:
            InputError: there is no such split, or none of its photos is usable.
        """
        folder = Path(root)
        table = folder / "ImageSets" / "Main" / f"{split}.txt"
        files = {}
        for line, text in enumerate(read_lines(table), start=1):
            if len(text.split()) != 1:
                raise InputError(
                    f"{table}, line {line}: got {text!r}, expected one photo: name a split of all "
                    'classes, as "test", not "cat_test"'
                )
            name = text.strip()
            files[f"JPEGImages/{name}.jpg"] = folder / "Annotations" / f"{name}.xml"
        images = {name for name in files if (folder / name).is_file()}
        super().__init__(folder, images=images, files=files, origin=1)


class IlsvrcDataset(VocXmlDataset):
    """`Data/CLS-LOC/val/ID.JPEG` and `Annotations/CLS-LOC/val/ID.xml`.

    A category is a WordNet number, as "n02105855". The first pixel of the boxes is 0, 0, unlike
    in VOC, and the last one belongs to the box (Russakovsky et al. 2015, development kit): 0, 0,
    4, 4 becomes 0, 0, 5, 5 here.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Read the annotations of the validation set.

        Args:
            root: The folder ILSVRC, with `Data` and `Annotations` in it.

        Raises:
            InputError: there is no such folder, or no photo is usable.
        """
        folder = Path(root)
        images = photos_in(folder, IMAGES)
        by_stem = {PurePosixPath(name).stem: name for name in images}
        files = {
            by_stem.get(path.stem, f"{IMAGES}/{path.stem}.JPEG"): path
            for path in sorted((folder / ANNOTATIONS).glob("*.xml"))
        }
        super().__init__(folder, images=images, files=files, origin=0)


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
