"""A bare ONNX model as the original of an explainer, with finite differences as the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from klieg.export.classifiers.onnx_classifier import (
    GraphClassifier,
    TensorNames,
    find_classifier,
    with_final_operator,
)
from klieg.export.parity.finite_differences import gradient_error, with_outputs
from klieg.export.parity.float64 import doubled, evaluator, in_float64
from klieg.export.parity.original import output_names, relative_error
from klieg.export.random_images import Probes
from klieg.export.session import Session

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class OnnxOriginal:
    """A bare ONNX model and what was found in it."""

    model: onnx.ModelProto
    classifier: GraphClassifier
    mean: Sequence[float]
    std: Sequence[float]

    def errors(self, explainer: onnx.ModelProto, probes: Probes) -> dict[str, float]:
        """Compare logits with the model's own, gradients with finite differences; see `Original`.

        A quantised model moves by whole steps of its grid at differences that float32 rounds away,
        by more of them layer by layer. So its logits are compared without rounding to the grid, in
        float64, and the error with rounding is reported as `logits_rounded`.
        """
        complete = with_final_operator(explainer, self.classifier.score.final_operator)
        session, truth = (Session(m.SerializeToString()) for m in (complete, self.model))
        errors = {"logits": max(self._logits_error(session, truth, feeds) for feeds in probes)}
        if any(node.op_type == "QuantizeLinear" for node in self.model.graph.node):
            errors["logits_rounded"] = errors["logits"]
            errors["logits"] = self._logits_error(
                _InFloat64(with_outputs(complete, ["logits"])),
                _InFloat64(self.model),
                {name: doubled(value) for name, value in next(iter(probes)).items()},
            )
        for name, wrt in (("gradient", "activation"), ("image_gradient", "image")):
            if name in output_names(explainer):
                errors[name] = gradient_error(explainer, probes, gradient=name, wrt=wrt)
        return errors

    def _logits_error(self, explainer: _Engine, original: _Engine, feeds: Feeds) -> float:
        (logits,) = explainer.run(["logits"], feeds)
        return relative_error(logits, self._scores(original, feeds["image"]))

    def _scores(self, original: _Engine, images: NDArray[Any]) -> NDArray[Any]:
        """Run the original on images [B, C, H, W] in 0..255, one by one if it takes no more."""
        mean, std = (np.reshape(value, (1, -1, 1, 1)) for value in (self.mean, self.std))
        normalised = (images / 255 - mean) / std
        image_input, score = self.classifier.image_input, self.classifier.score
        parts = np.split(normalised, len(images)) if image_input.one_by_one else [normalised]
        scores = [original.run([score.name], image_input.feeds(part))[0] for part in parts]
        return np.concatenate(scores).reshape(len(images), -1)


def open_onnx(
    model: onnx.ModelProto,
    *,
    names: TensorNames,
    input_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> OnnxOriginal:
    """Find image, logits and layer in a bare ONNX model, see `export_classifier`."""
    found = find_classifier(model, names=names, input_size=input_size, channels=len(mean))
    return OnnxOriginal(model, found, mean, std)


class _Engine(Protocol):
    def run(self, outputs: Sequence[str], feeds: Feeds) -> list[Any]: ...


class _InFloat64:
    """A model that computes in float64."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = evaluator(in_float64(model))

    def run(self, outputs: Sequence[str], feeds: Feeds) -> Any:
        doubles = {name: doubled(value) for name, value in feeds.items()}
        return self._evaluator.run(list(outputs), doubles)
