"""CUB, OpenImages and ILSVRC in the layout of Choe et al. 2020 (github clovaai/wsolevaluation)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem
from klieg.evaluation.datasets.listing import ListedDataset, add_mark
from klieg.evaluation.datasets.marked_objects import MarkedObject, as_box, regions_of, uncounted
from klieg.evaluation.datasets.reading import read_labels, read_lines
from klieg.images.formats import read_image

BOX_FIELDS: Final = 5
MASK_FIELDS: Final = 3


class _Mark(NamedTuple):
    object: MarkedObject
    mask: str = ""
    """Path below the root of the object's mask; empty for a box."""
    ignore: str = ""
    """Path below the root of what to ignore on this photo; mostly empty."""


class WsolDataset(ListedDataset[_Mark]):
    """Photos below a root, and lists of them in `SPLIT/`.

    - `image_ids.txt`: a path below the root in each line.
    - `class_labels.txt`: path, class number; the number is the category.
    - `localization.txt`: path, x0, y0, x1, y1, several lines a photo if need be; or path, mask,
      ignored region, both files below the root and the last one possibly empty.

    `image_sizes.txt` is not needed: boxes are in pixels of the photo, the first one is 0, 0. The
    last one belongs to the box, as in the original's measure, so 0, 0, 4, 4 becomes 0, 0, 5, 5
    here. Masks may have another size than their photo: the original enlarges or shrinks them by
    the nearest neighbour, and so do we, to the size of the photo. What is ignored ends, as
    there, where an object lies.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        metadata: str | os.PathLike[str],
        split: str,
    ) -> None:
        """Read the lists of a split.

        Args:
            root: The folder of photos and masks, as dataset/CUB.
            metadata: The folder of the splits, as metadata/CUB.
            split: "train", "val" or "test".

        Raises:
            InputError: a list is missing or of another form, or no photo is usable.
        """
        folder, lists = Path(root), Path(metadata) / split
        names = dict.fromkeys(read_lines(lists / "image_ids.txt"))
        labels = dict(fields for _, fields in _rows(lists / "class_labels.txt", 2))
        marked: dict[str, list[_Mark] | None] = {name: [] for name in names}
        problems: list[Problem] = []
        for line, (name, *fields) in _rows(lists / "localization.txt", BOX_FIELDS, MASK_FIELDS):
            where = f"localization.txt, line {line}"
            if name not in names:
                detail = f"{where}: it is not in image_ids.txt"
                problems.append(Problem("annotation without image", name, detail))
                continue
            read = partial(_mark, labels.get(name), fields)
            add_mark(marked, problems, name, read, where=where)
        images = {name for name in names if (folder / name).is_file()}
        super().__init__(folder, images=images, marked=marked, problems=problems)

    def _read(self, name: str, marks: Sequence[_Mark]) -> AnnotatedPhoto:
        photo = read_image(self.root / name)
        problems: list[Problem] = []

        def of_photo(path: str) -> NDArray[np.bool_] | None:  # [H, W]
            try:
                return _resized(read_labels(self.root / path) > 0, photo.shape[:2])
            except InputError as error:
                problems.append(Problem("unreadable annotation", name, str(error)))
                return None

        masks = [of_photo(mark.mask) if mark.mask else None for mark in marks]
        ignored = [of_photo(mark.ignore) for mark in marks if mark.ignore]
        return AnnotatedPhoto(
            name=name,
            photo=photo,
            regions=regions_of([mark.object for mark in marks], masks),
            ignore=uncounted([mask for mask in ignored if mask is not None], masks),
            problems=tuple(problems),
        )


def _rows(path: Path, *lengths: int) -> list[tuple[int, list[str]]]:
    """Return lines split at commas, with their numbers; all have as many fields as the first."""
    rows = [(line, text.split(",")) for line, text in enumerate(read_lines(path), start=1)]
    for line, fields in rows:
        if len(fields) not in lengths or len(fields) != len(rows[0][1]):
            expected = " or ".join(map(str, lengths))
            raise InputError(
                f"{path}, line {line}: got {len(fields)} fields, expected {expected}, the same in "
                "every line"
            )
    return rows


def _mark(label: str | None, fields: Sequence[str]) -> _Mark:
    if label is None:
        raise InputError("class_labels.txt has no class of this photo")
    if len(fields) == MASK_FIELDS - 1:
        if not fields[0]:
            raise InputError("the mask's path is empty")
        return _Mark(MarkedObject(label), *fields)
    left, top, right, bottom = as_box(*fields)
    return _Mark(MarkedObject(label, (left, top, right + 1, bottom + 1)))


def _resized(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    height, width = size
    resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return resized.astype(np.bool_)
