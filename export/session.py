"""Running ONNX graphs on the workbench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from klieg.errors import ExportError


class Session:
    """A serialised model in ONNX Runtime on the CPU."""

    def __init__(self, model: bytes) -> None:
        """Open a model.

        Raises:
            ExportError: ONNX Runtime refuses the model.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_mem_pattern = False  # sizes change from run to run
        providers = ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ExportError(f"ONNX Runtime cannot load the model: {error}") from error

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """Compute some outputs, None for all.

        Raises:
            ExportError: the run failed.
        """
        try:
            values: list[Any] = self._session.run(outputs, dict(feeds))
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot run the model: {error}") from error
        return values
