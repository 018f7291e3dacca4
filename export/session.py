"""Running ONNX graphs on the workbench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from klieg.errors import ExportError


def open_session(model: bytes) -> Any:
    """Open a serialised model in ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # sizes change from run to run
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_once(model: bytes, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Load a serialised model, run it, and return all its outputs.

    Raises:
        ExportError: the engine refuses the model or the input.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as engine

    refusals = (
        engine.Fail,
        engine.InvalidArgument,
        engine.InvalidGraph,
        engine.InvalidProtobuf,
        engine.NotImplemented,
        engine.RuntimeException,
    )
    try:
        return list(open_session(model).run(None, dict(feeds)))
    except refusals as error:
        sizes = {name: list(value.shape) for name, value in feeds.items()}
        raise ExportError(f"the model does not run on {sizes}: {error}") from error
