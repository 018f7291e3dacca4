"""A folder of results: files of every image, under names that do not clash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klieg.errors import OptionError
from klieg.results.formats import Result, draw_overlay, find_format
from klieg.results.lettering import sheet, write_png
from klieg.results.overlay import LONGEST_SIDE

COLUMNS: Final = 4
"""Methods beside each other in one row."""


@dataclass(frozen=True)
class SavedResult:
    """The files of one result."""

    files: Mapping[str, Path]
    """By the name of the format."""
    comparison: Path | None
    """PNG with the overlays of all methods beside each other, if there are several."""


class ResultFolder:
    """A folder that results are written to, one complete file after another."""

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        """Create the folder if it is missing.

        Args:
            folder: Where to write.
            formats: Names of the output formats of every result.

        Raises:
            OptionError: there is no such format.
        """
        if not formats or isinstance(formats, str):
            raise OptionError(f"formats are {formats!r}, expected a list of names, such as ['png']")
        self._writers = {name: find_format(name) for name in formats}
        for kind in ("ending", "label"):
            said = [getattr(writer, kind) for writer in self._writers.values()]
            if len(set(said)) < len(said):
                raise OptionError(
                    f"formats {', '.join(formats)} have the same {kind}, {', '.join(said)}: ask "
                    "for them one by one, in folders of their own"
                )
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._taken = {"results.jsonl"}  # of the command line

    def save(self, results: Sequence[Result]) -> list[SavedResult]:
        """Write the files of one image; images of the same name get numbers.

        Args:
            results: Of the same image and class, one per method. If there are several, their files
                are named NAME-METHOD, and NAME.png has all overlays beside each other.
        """
        several = len(results) > 1
        parts = [f"-{result.method}" if several else "" for result in results]
        endings = [f"{part}{one.ending}" for part in parts for one in self._writers.values()]
        comparison = None
        name = self._unused(results[0].name, [*endings, ".png"] if several else endings)
        if several:
            tiles = [draw_overlay(result, LONGEST_SIDE // 2) for result in results]
            comparison = self._folder / f"{name}.png"
            write_png(comparison, sheet(tiles, columns=min(len(tiles), COLUMNS)))
        saved = []
        for part, result in zip(parts, results, strict=True):
            files = {}
            for form, writer in self._writers.items():
                files[form] = self._folder / f"{name}{part}{writer.ending}"
                writer.write(result, files[form])
            saved.append(SavedResult(files, comparison))
        return saved

    def _unused(self, image: str, endings: Sequence[str]) -> str:
        """Return a name of which no file is taken, and take its files."""
        stem = Path(image).stem
        candidate, number = stem, 1
        while self._taken & (wanted := {f"{candidate}{ending}" for ending in endings}):
            number += 1
            candidate = f"{stem}-{number}"
        self._taken |= wanted
        return candidate
