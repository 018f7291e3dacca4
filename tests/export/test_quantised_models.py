"""Classifiers of eight bits, as ONNX Runtime's quantiser writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime import quantization

from helpers.small_net import MEAN, STD
from klieg import Explainer
from klieg.errors import ParityError
from klieg.export import classifier, export_classifier
from klieg.export.parity.original import KINK_LIMIT, checked


class Calibration(quantization.CalibrationDataReader):
    """Twenty images of noise."""

    def __init__(self, name: str) -> None:
        rng = np.random.default_rng(0)
        self._feeds = iter(
            [{name: rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(20)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


@pytest.fixture(scope="module")
def int8(bare: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SmallNet with weights and activations of eight bits."""
    folder = tmp_path_factory.mktemp("int8")
    onnx.save(bare, folder / "float32.onnx")
    quantization.quantize_static(
        folder / "float32.onnx",
        folder / "int8.onnx",
        Calibration(bare.graph.input[0].name),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return folder / "int8.onnx"


def test_an_int8_model_becomes_an_explainer(int8: Path, tmp_path: Path) -> None:
    path = tmp_path / "explainer.onnx"
    report = export_classifier(int8, path, input_size=32, mean=MEAN, std=STD, methods=["saliency"])
    for name in ("logits", "gradient", "image_gradient"):
        assert report.parity[name] < 1e-5  # float64, but scales and normalisation are float32
    assert report.parity["logits_rounded"] < KINK_LIMIT
    photo = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    with Explainer(path) as explainer:
        for method in ("cameras", "saliency"):
            assert explainer.explain([photo], method=method, target=1).maps.max() == 1


def test_a_wrong_graph_is_not_excused_by_rounding(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = classifier.instrument

    def scaled(*args: object, std: list[float], **options: object) -> object:
        return original(*args, std=[2 * one for one in std], **options)

    monkeypatch.setattr(classifier, "instrument", scaled)
    with pytest.raises(ParityError, match="logits "):
        export_classifier(int8, tmp_path / "explainer.onnx", input_size=32, mean=MEAN, std=STD)


def test_rounding_has_a_limit_of_its_own() -> None:
    checked({"logits": 1e-6, "logits_rounded": 0.05})
    with pytest.raises(ParityError, match="logits_rounded"):
        checked({"logits": 1e-6, "logits_rounded": 0.2})
    with pytest.raises(ParityError, match="logits "):
        checked({"logits": 0.05, "logits_rounded": 0.05})
