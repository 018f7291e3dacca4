"""Engines, methods, picture formats and output formats that other packages add.

A package names them among its entry points, in one of these groups; each is loaded only when it is
asked for by its name:

- `klieg.backends`: an `Engine` class, as `klieg.backends.onnxruntime.OnnxRuntime` is;
- `klieg.methods`: a `klieg.model_file.methods.Method`;
- `klieg.pictures`: a `klieg.images.formats.PictureFormat`, named by its suffix, such as ".webp";
- `klieg.formats`: a `klieg.results.formats.Writer`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

Group = Literal["klieg.backends", "klieg.formats", "klieg.methods", "klieg.pictures"]


@cache
def extension(group: Group, name: str) -> Any | None:
    """Load what an installed package adds under a name; None if none does."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=group, name=name):
        return entry.load()
    return None


def extension_names(group: Group) -> tuple[str, ...]:
    """Return the names that installed packages add to a group; nothing is loaded."""
    from importlib.metadata import entry_points

    return tuple(sorted(entry_points(group=group).names))
