"""Which classes of a classifier stand for a category of a data set."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from klieg.errors import InputError, TargetError
from klieg.images.targets import resolve_target

ClassMapping = Mapping[str, tuple[int | str, ...]]


def read_mapping(path: str | os.PathLike[str]) -> dict[str, tuple[int | str, ...]]:
    """Read a JSON file {category: class}, where a class is a number, a name, or a list of these.

    Raises:
        InputError: the file is not of that form.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected {{category: class}}")
    mapping = {}
    for category, value in content.items():
        listed = value if isinstance(value, list) else [value]
        known = all(isinstance(one, int | str) and not isinstance(one, bool) for one in listed)
        if not listed or not known:
            raise InputError(
                f"{path}: category {category!r} has {value!r}, expected a class number, a class "
                "name or a list of these; leave out a category that the classifier does not know"
            )
        mapping[category] = tuple(listed)
    return mapping


def resolve_mapping(
    mapping: ClassMapping, *, classes: int, class_names: tuple[str, ...] | None
) -> dict[str, tuple[int, ...]]:
    """Return the class numbers of each category, each number once, in the order given.

    Args:
        mapping: What `read_mapping` returns.
        classes: Number of classes of the classifier.
        class_names: One name per class, if known.

    Raises:
        TargetError: the classifier has no such class; the message names the category.
    """
    resolved = {}
    for category, listed in mapping.items():
        try:
            numbers = [resolve_target(one, classes=classes, names=class_names) for one in listed]
        except TargetError as error:
            raise TargetError(f"category {category!r}: {error}") from error
        resolved[category] = tuple(dict.fromkeys(numbers))
    return resolved


def class_of(category: str, *, classes: int, class_names: tuple[str, ...] | None) -> int | None:
    """Return the class that has the category as its name or, else, as its number.

    Args:
        category: As "wallaby" or "104".
        classes: Number of classes of the classifier.
        class_names: One name per class, if known.

    Returns:
        The number, or None if the classifier has no such class.

    Raises:
        TargetError: several classes have that name; the message names the category.
    """
    if category in (class_names or ()):
        resolved = resolve_mapping(
            {category: (category,)}, classes=classes, class_names=class_names
        )
        return resolved[category][0]
    if category.isdecimal() and int(category) < classes:
        return int(category)
    return None
