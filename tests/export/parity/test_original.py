"""An export that disagrees with its original is not written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from helpers.small_net import MEAN, STD, small_net
from klieg.errors import ParityError
from klieg.export import export_classifier
from klieg.export.parity import original as parity


def wrong_relu(at: Any) -> Any:
    return at.g  # forgets the mask


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_wrong_gradient_is_not_written(
    kind: str, bare: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from klieg.export.autodiff.rules.tables import STANDARD_RULES
    from klieg.export.instrument import outputs

    broken = {**STANDARD_RULES, "Relu": wrong_relu, "Clip": wrong_relu}
    monkeypatch.setattr(outputs, "STANDARD_RULES", broken)
    path = tmp_path / "old.onnx"
    path.write_bytes(b"an older file")
    layer = "features.3"
    model: Any = small_net()
    if kind == "onnx":
        model = bare
        layer = next(node for node in bare.graph.node if node.op_type == "MaxPool").output[0]
    with pytest.raises(ParityError, match="gradient"):
        export_classifier(model, path, layer=layer, input_size=32, mean=MEAN, std=STD)
    assert path.read_bytes() == b"an older file"
    assert [p.name for p in tmp_path.iterdir()] == ["old.onnx"]


def test_parity_check_refuses_nan() -> None:
    with pytest.raises(ParityError):
        parity.checked({"gradient": float("nan")})
    one, nan = np.ones(1, np.float32), np.full(1, np.nan, np.float32)
    assert max(0.0, parity.relative_error(nan, one)) == np.inf
    assert parity.checked({"gradient": 1e-3}) == {"gradient": 1e-3}
