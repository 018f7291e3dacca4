"""The workbench: classifiers in, explainer files out. Needs the extra `export`."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from klieg.export.classifier import ExportReport as ExportReport
    from klieg.export.classifier import export_classifier as export_classifier

__all__ = ["ExportReport", "export_classifier"]

_LATE: Final = dict.fromkeys(__all__, "klieg.export.classifier")


def __getattr__(name: str) -> Any:
    """Import the exporter at its first use: re-initialising explainer files needs no torch."""
    if name not in _LATE:
        raise AttributeError(f"module 'klieg.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
