"""COCO: all annotations in one JSON file, with boxes and masks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from klieg.errors import InputError
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem
from klieg.evaluation.datasets.coco_masks import decode_mask
from klieg.evaluation.datasets.listing import ListedDataset, add_mark, photos_in
from klieg.evaluation.datasets.marked_objects import (
    MarkedObject,
    as_box,
    as_number,
    regions_of,
    uncounted,
)
from klieg.images.formats import read_image


class _Image(NamedTuple):
    name: str
    height: int
    width: int


class _Mark(NamedTuple):
    object: MarkedObject
    number: Any
    """The annotation's id."""
    crowd: bool
    segmentation: Any
    """As it is in the JSON file: decoded when the photo is read."""


class CocoDataset(ListedDataset[_Mark]):
    """A folder of photos and the JSON file of their instances (Lin et al. 2014).

    What is marked as a crowd counts neither as object nor as background. No object is difficult.
    A box x, y, width, height begins at the photo's corner 0, 0.
    """

    def __init__(self, images: str | os.PathLike[str], annotations: str | os.PathLike[str]) -> None:
        """Read the JSON file.

        Args:
            images: The folder to which `file_name` is relative, as val2014.
            annotations: The file, as instances_val2014.json.

        Raises:
            InputError: the file is not of that form, or no photo is usable.
        """
        root, path = Path(images), Path(annotations)
        content = _load(path)
        by_number = _images(content, path)
        categories = _categories(content, path)
        marked: dict[str, list[_Mark] | None] = {image.name: [] for image in by_number.values()}
        problems: list[Problem] = []
        for entry in content["annotations"]:
            where = f"annotation {entry.get('id')!r}"
            image = by_number.get(_key(entry, "image_id"))
            if image is None:
                detail = f"there is no image {entry.get('image_id')!r}"
                problems.append(Problem("annotation without image", where, detail))
                continue
            read = partial(_mark, entry, categories)
            add_mark(marked, problems, image.name, read, where=where)
        self._sizes = {image.name: image for image in by_number.values()}
        super().__init__(root, images=photos_in(root), marked=marked, problems=problems)

    def _read(self, name: str, marks: Sequence[_Mark]) -> AnnotatedPhoto:
        photo = read_image(self.root / name)
        _, height, width = self._sizes[name]
        problems = []
        masks = []
        for mark in marks:
            try:
                mask = decode_mask(mark.segmentation, height=height, width=width)
                if mask is None and mark.crowd:
                    raise InputError("it is a crowd without a segmentation")
            except InputError as error:
                detail = f"annotation {mark.number!r}: {error}"
                problems.append(Problem("unreadable annotation", name, detail))
                mask = None
            masks.append(mask)
        pairs = list(zip(marks, masks, strict=True))
        of_objects = [mask for mark, mask in pairs if not mark.crowd]
        of_crowds = [mask for mark, mask in pairs if mark.crowd and mask is not None]
        return AnnotatedPhoto(
            name=name,
            photo=photo,
            regions=regions_of([mark.object for mark in marks if not mark.crowd], of_objects),
            ignore=uncounted(of_crowds, of_objects),
            problems=tuple(problems),
        )


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            raise InputError(
                f"{path} has no list `{key}`, expected a COCO file of instances with images, "
                "annotations and categories"
            )
    return dict(content)


def _images(content: dict[str, list[dict[str, Any]]], path: Path) -> dict[Any, _Image]:
    found = {}
    for entry in content["images"]:
        name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
        sized = all(isinstance(side, int) and side > 0 for side in (height, width))
        if _key(entry, "id") is None or not isinstance(name, str) or not sized:
            raise InputError(
                f"{path}: got the image {entry!r}, expected an id, a file_name, a height and a "
                "width"
            )
        found[entry["id"]] = _Image(name, entry["height"], entry["width"])
    return found


def _categories(content: dict[str, list[dict[str, Any]]], path: Path) -> dict[Any, str]:
    for entry in content["categories"]:
        if _key(entry, "id") is None or not isinstance(entry.get("name"), str):
            raise InputError(f"{path}: got the category {entry!r}, expected an id and a name")
    return {entry["id"]: entry["name"] for entry in content["categories"]}


def _key(entry: dict[str, Any], name: str) -> int | str | None:
    value = entry.get(name)
    return value if isinstance(value, int | str) else None


def _mark(entry: dict[str, Any], categories: dict[Any, str]) -> _Mark:
    category = categories.get(_key(entry, "category_id"))
    if category is None:
        raise InputError(f"there is no category {entry.get('category_id')!r}")
    sides = entry.get("bbox")
    if not isinstance(sides, list) or len(sides) != 4:
        raise InputError(f"bbox is {sides!r}, expected x, y, width, height")
    names = ("x", "y", "width", "height")
    left, top, width, height = map(as_number, names, sides)
    return _Mark(
        MarkedObject(category, as_box(left, top, left + width, top + height)),
        entry.get("id"),
        bool(entry.get("iscrowd", 0)),
        entry.get("segmentation"),
    )
