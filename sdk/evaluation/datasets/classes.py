"""Classes of a classifier that stand for the categories of a data set."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from klieg.errors import InputError, TargetError
from klieg.images.targets import resolve_target

if TYPE_CHECKING:
    from klieg.explainer import Explainer

ClassMapping = Mapping[str, tuple[int | str, ...]]


@dataclass(frozen=True)
class ClassFinder:
    """Finds the classes that mean a category."""

    mapping: Mapping[str, tuple[int, ...]] | None
    """Classes by category; None to take a category as the name or number of a class."""
    classes: int
    """Number of classes of the classifier."""
    class_names: tuple[str, ...] | None

    @classmethod
    def of(cls, explainer: Explainer, *, mapping: str | os.PathLike[str] | None = None) -> Self:
        """Find classes of an explainer file.

        Args:
            explainer: The file, opened.
            mapping: A JSON file {category: class}, a class being a number, a name or a list.

        Raises:
            InputError: the mapping is no such file.
            TargetError: it names a class that the classifier does not have.
        """
        classes, names = explainer.classes, explainer.info.class_names
        if mapping is None:
            return cls(None, classes, names)
        resolved = resolve_mapping(read_mapping(mapping), classes=classes, class_names=names)
        return cls(resolved, classes, names)

    def __call__(self, category: str) -> tuple[int, ...] | None:
        """Return the classes of a category, None if the classifier knows none."""
        if self.mapping is not None:
            return self.mapping.get(category)
        found = class_of(category, classes=self.classes, class_names=self.class_names)
        return None if found is None else (found,)


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
