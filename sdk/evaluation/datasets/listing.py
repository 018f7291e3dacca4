"""The base of all data sets: photos in the order of their names, read one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from klieg.errors import InputError
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Problem, checked
from klieg.images.formats import image_suffixes

Mark = TypeVar("Mark")
"""One object as it is known before its photo is read."""


class ListedDataset(ABC, Generic[Mark]):
    """A `Dataset` with its annotations in memory. A subclass reads them, and one photo at a time.

    A photo's name is its path below `root`, with forward slashes.
    """

    def __init__(
        self,
        root: Path,
        *,
        images: Collection[str],
        marked: Mapping[str, Sequence[Mark] | None],
        problems: Sequence[Problem] = (),
    ) -> None:
        """Keep the photos that have both an image and marks.

        Args:
            root: The folder to which names are relative.
            images: Names of the photos that are there.
            marked: The objects of each photo; None where they are unreadable, which is then
                among the problems.
            problems: Problems found so far. Images without objects and objects without an image
                are added.

        Raises:
            InputError: no photo is left.
        """
        found = list(problems)
        for name in sorted({*images, *marked}):
            marks = marked.get(name, ())
            if name not in images:
                found.append(Problem("annotation without image", name))
            elif marks is not None and not marks:
                found.append(Problem("image without annotation", name))
        self.root = root
        self._problems = tuple(found)
        self._marked = {name: some for name in sorted(images) if (some := marked.get(name))}
        self._names = tuple(self._marked)
        if not self._names:
            first = "".join(
                f", the first: {one.kind}, {one.where} {one.detail}" for one in found[:1]
            )
            raise InputError(
                f"{root} has no photo with a readable annotation ({len(images)} images, "
                f"{len(marked)} annotations, {len(found)} problems{first}), expected at least one: "
                "check the path and the layout"
            )

    @property
    def problems(self) -> Sequence[Problem]:
        """Problems of the annotations, found before any photo is read."""
        return self._problems

    def __len__(self) -> int:
        """Return the number of photos that have an image and an annotation."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of a photo without reading it."""
        return self._names[index]

    def __getitem__(self, index: int) -> AnnotatedPhoto:
        """Read a photo.

        Raises:
            ImageError: the photo is unreadable.
        """
        name = self._names[index]
        return checked(self._read(name, self._marked[name]))

    @abstractmethod
    def _read(self, name: str, marks: Sequence[Mark]) -> AnnotatedPhoto:
        """Read a photo; it is compared with its regions afterwards."""


def add_mark(
    marked: dict[str, list[Mark] | None],
    problems: list[Problem],
    name: str,
    read: Callable[[], Mark],
    *,
    where: str,
) -> None:
    """Add a mark of a photo, or a problem: then the photo is left out, with all its marks.

    Args:
        marked: See `ListedDataset`.
        problems: Problems found so far.
        name: The photo's.
        read: Returns the mark, or raises InputError if it is wrong.
        where: The mark's place in its file.
    """
    try:
        mark = read()
    except InputError as error:
        problems.append(Problem("unreadable annotation", name, f"{where}: {error}"))
        marked[name] = None
        return
    marks = marked.setdefault(name, [])
    if marks is not None:
        marks.append(mark)


def photos_in(root: Path, folder: str = ".") -> frozenset[str]:
    """Return the names of all picture files in a folder below `root`, at any depth.

    Raises:
        InputError: there is no such folder.
    """
    start = root / folder
    if not start.is_dir():
        raise InputError(f"{start} is no folder, expected one with photos: check the layout")
    files = (path for path in start.rglob("*") if path.suffix.lower() in image_suffixes())
    return frozenset(path.relative_to(root).as_posix() for path in files)
