"""The photos that a run trains on, with their labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from klieg.errors import DataError
from klieg.images.formats import image_suffixes
from klieg.training.settings.options import DataOptions

FILE_COLUMNS: Final = ("file", "path", "image")
LABEL_COLUMNS: Final = ("class_index", "label", "class")


@dataclass(frozen=True)
class Photo:
    """A photo and its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class Photos:
    """The photos of a run."""

    training: tuple[Photo, ...]
    held_out: tuple[Photo, ...]


def find_photos(options: DataOptions, *, classes: int, seed: int) -> Photos:
    """List the photos, draw the few that are wanted, and split off those for validation.

    Layouts: "folders" has one folder per class, numbered in the order of their names, or bearing
    the class number as its name; "imagenet" has these in its folder `train`; "csv" is a file with
    the columns `file` (relative to it, or to a folder `images` beside it) and `class_index`. Where
    labels are predicted, the photos may stand in one folder or a table without classes.

    Args:
        options: What to read and how much of it.
        classes: Number of classes of the classifier.
        seed: Decides what is drawn.

    Raises:
        DataError: there are no photos, a class has none, or a label is out of range.
    """
    root, labelled = Path(options.path), options.labels == "given"
    if not root.exists():
        raise DataError(f"data.path {root} does not exist")
    if options.layout == "csv":
        found = list(_listed(root, labelled=labelled))
    else:
        folder = root / "train" if options.layout == "imagenet" else root
        found = _in_folders(folder, classes=classes if labelled else None)
    for photo in found:
        if labelled and not 0 <= photo.label < classes:
            raise DataError(
                f"{photo.path} has the label {photo.label}, but the classifier has {classes} "
                f"classes: expected 0..{classes - 1}"
            )
    if not found:
        raise DataError(f"{root} names no photos")
    return _split(_drawn(found, options, seed), options.held_out, seed)


def _in_folders(root: Path, *, classes: int | None) -> list[Photo]:
    """List the photos of a folder per class; `classes` is None where labels are not needed."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder, expected one with a folder per class")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if not folders and classes is None:
        return [Photo(file, 0) for file in sorted(root.iterdir()) if _is_photo(file)]
    photos: list[Photo] = []
    numbered = all(folder.name.isdecimal() for folder in folders)
    for index, folder in enumerate(folders):
        files = sorted(filter(_is_photo, folder.rglob("*")))
        if not files:
            raise DataError(
                f"the class folder {folder} holds no photos ({', '.join(image_suffixes())}): "
                "fill or remove it"
            )
        photos.extend(Photo(file, int(folder.name) if numbered else index) for file in files)
    if classes is not None and not numbered and len(folders) != classes:
        raise DataError(
            f"{root} has {len(folders)} class folders, but the classifier has {classes} classes: "
            "give each folder the number of its class as its name, or list the photos in a CSV file"
        )
    return photos


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in image_suffixes()


def _listed(table: Path, *, labelled: bool) -> Iterator[Photo]:
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            columns = rows.fieldnames or []
            file = next((name for name in FILE_COLUMNS if name in columns), None)
            label = next((name for name in LABEL_COLUMNS if name in columns), None)
            if file is None or (label is None and labelled):
                raise DataError(
                    f"{table} has the columns {list(columns)}, expected `file` and `class_index`"
                )
            images = table.parent / "images"
            folder = images if images.is_dir() else table.parent
            for number, row in enumerate(rows, start=2):
                given = "0" if label is None else row[label] or ""  # None in a line cut short
                if not given.isdecimal():
                    raise DataError(
                        f"{table}, line {number}: {label} is {given!r}, expected a number"
                    )
                path = folder / (row[file] or "")
                if not path.is_file():
                    raise DataError(f"{table}, line {number}: there is no file {path}")
                yield Photo(path, int(given))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {table} as a table of photos: {error}") from error


def _drawn(photos: list[Photo], options: DataOptions, seed: int) -> list[Photo]:
    """Draw classes and photos of each class; which ones depends on the seed alone."""
    if options.classes is None and options.per_class is None:
        return photos
    by_class: dict[int, list[Photo]] = {}
    for photo in photos:
        by_class.setdefault(photo.label, []).append(photo)
    generator = np.random.default_rng([seed, 1])
    labels = sorted(by_class)
    if options.classes is not None:
        if options.classes > len(labels):
            raise DataError(f"data.classes is {options.classes}, but there are {len(labels)}")
        labels = sorted(generator.choice(labels, options.classes, replace=False).tolist())
    drawn: list[Photo] = []
    for label in labels:
        candidates = by_class[label]
        count = options.per_class or len(candidates)
        if count > len(candidates):
            raise DataError(
                f"data.per_class is {count}, but class {label} has {len(candidates)} photos"
            )
        order = sorted(generator.choice(len(candidates), count, replace=False).tolist())
        drawn.extend(candidates[index] for index in order)
    return drawn


def _split(photos: list[Photo], held_out: float, seed: int) -> Photos:
    count = round(held_out * len(photos))
    if len(photos) - count < 2:
        raise DataError(f"{len(photos) - count} photos are left to train on, expected at least 2")
    chosen = set(np.random.default_rng([seed, 2]).permutation(len(photos))[:count].tolist())
    return Photos(
        tuple(photo for index, photo in enumerate(photos) if index not in chosen),
        tuple(photo for index, photo in enumerate(photos) if index in chosen),
    )
