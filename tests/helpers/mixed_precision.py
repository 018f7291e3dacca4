"""Explainers in lower precision, and what their tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from helpers.bare_models import RGB, SIZE
from klieg.export import export_classifier
from klieg.export.random_images import random_images

LOWER = ("float16", "bfloat16")
FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Relative error of rounding one number; the outputs of a net of a few layers are off by a few."""

FEEDS = {"image": random_images(40, channels=3, seed=0), "target": np.array([1, 3])}


def typed(proto: onnx.ModelProto) -> ir.Graph:
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    ).graph


def bare(tmp_path: Path, proto: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Export a bare classifier and return the explainer."""
    path = tmp_path / "explainer.onnx"
    export_classifier(proto, path, input_size=SIZE, methods=["saliency"], **RGB, **options)
    return onnx.load(path)
