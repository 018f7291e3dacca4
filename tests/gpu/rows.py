"""Rows of the table of `make gpu-check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class Skipped(Exception):  # noqa: N818  # nothing is wrong
    """A part that cannot run on this machine, with the reason."""


@dataclass(frozen=True)
class Row:
    """One thing that was looked at."""

    what: str
    found: str = ""
    wanted: str = ""
    good: bool | None = None
    """None where nothing was promised."""
    skipped: str = ""

    @property
    def failed(self) -> bool:
        """True for what was promised and is not so."""
        return self.good is False

    @property
    def verdict(self) -> str:
        """One word."""
        return "skipped" if self.skipped else {True: "yes", False: "NO", None: ""}[self.good]

    def text(self) -> str:
        """One line for a terminal."""
        parts = [self.what, self.found, self.wanted, self.verdict, self.skipped]
        return "  ".join(filter(None, parts))


def as_markdown(heading: str, rows: Sequence[Row]) -> str:
    """Return the table with a line above it."""
    lines = [f"{heading}.", "", "| what | found | wanted | holds |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.what} | {row.skipped or row.found} | {row.wanted} | {row.verdict} |")
    return "\n".join(lines) + "\n"
