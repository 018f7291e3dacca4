"""From a data set's categories to the classifier's classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from klieg.evaluation.datasets.mapping import class_of, read_mapping, resolve_mapping

if TYPE_CHECKING:
    from klieg.explainer import Explainer


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
