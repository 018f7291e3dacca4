"""Documented modules of 0.1 under their old names, for one release, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any, Final

RENAMED: Final = MappingProxyType(
    {
        "klieg.methods.table": "klieg.model_file.methods",
        "klieg.training.data_randomisation": "klieg.training.sanity.label_shuffling",
        "klieg.training.roar": "klieg.training.sanity.remove_and_retrain",
    }
)
"""Old names of modules and where their content is now; `docs/api-changes.md` lists them."""


class _Renamed:
    """Finds a module under its old name; no heir of importlib.abc, which takes 5 ms to import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how an old name is imported, None for all others."""
        loader: Any = self
        return ModuleSpec(fullname, loader) if fullname in RENAMED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return None, for an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module under its new name in the place of the empty one."""
        new = RENAMED[module.__name__]
        warnings.warn(
            f"{module.__name__} is now {new}: the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[module.__name__] = importlib.import_module(new)


def install() -> None:
    """Let old names be imported."""
    if not any(isinstance(finder, _Renamed) for finder in sys.meta_path):
        sys.meta_path.append(_Renamed())
