"""A folder of results belongs to one configuration, which it says itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from klieg.storage.atomic import atomic_path


def claim(path: Path, configuration: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Write a configuration to a JSON file, or compare it with what stands there.

    Returns:
        What differs, by name in alphabetical order: the value there and the one given, None where
        there is none. Empty if the folder is new or the same.

    Raises:
        OSError: the file cannot be read or written.
    """
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(configuration, indent=1) + "\n", encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    given = json.loads(json.dumps(configuration))  # as it looks after it was written
    return {
        name: (found.get(name), given.get(name))
        for name in sorted(found.keys() | given.keys())
        if found.get(name) != given.get(name)
    }
