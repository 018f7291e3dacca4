"""Models of a test in ONNX Runtime, and images of noise for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from klieg.export.session import Session


def outputs(
    model: onnx.ModelProto | Path | bytes, feeds: dict[str, Any], *names: str
) -> dict[str, np.ndarray]:
    """Run a model, its file or its bytes for some of its outputs, for all if none is named."""
    if not isinstance(model, onnx.ModelProto):
        model = onnx.load_from_string(model if isinstance(model, bytes) else model.read_bytes())
    wanted = names or [output.name for output in model.graph.output]
    values = Session(model.SerializeToString()).run(wanted, feeds)
    return dict(zip(wanted, values, strict=True))


def noise(batch: int, height: int = 32, width: int = 32, *, seed: int = 0) -> np.ndarray:
    """Return images [batch, 3, height, width] in 0..255 float32."""
    generator = np.random.default_rng(seed)
    return generator.uniform(0, 255, (batch, 3, height, width)).astype(np.float32)
