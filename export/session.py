"""Running ONNX graphs on the workbench."""

from __future__ import annotations

from typing import Any


def open_session(model: bytes) -> Any:
    """Open a serialised model in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # sizes change from run to run
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
