"""The workbench: classifiers in, explainer files out. Needs the extra `export`."""

from klieg.export.classifier import ExportReport as ExportReport
from klieg.export.classifier import export_classifier as export_classifier

__all__ = ["ExportReport", "export_classifier"]
