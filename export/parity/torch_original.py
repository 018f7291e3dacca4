"""A torch module as the original of an explainer, with torch autograd as the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from klieg.export.classifiers.onnx_classifier import GraphClassifier, TensorNames, find_classifier
from klieg.export.classifiers.torch_classifier import TorchClassifier
from klieg.export.classifiers.weights import weights_sha256
from klieg.export.parity.finite_differences import with_outputs
from klieg.export.parity.float64 import evaluator, in_float64
from klieg.export.parity.original import KINK_LIMIT, LIMIT, output_names, relative_error
from klieg.export.random_images import Probes
from klieg.export.session import Session
from klieg.model_file.outputs import OUTPUTS

if TYPE_CHECKING:
    from klieg.export.classifiers.torch_masker import MaskHead

COMPARED: Final = tuple(name for name, output in OUTPUTS.items() if output.compared)
"""Outputs that autograd has a truth for; those of other rule tables are tested, not compared."""


@dataclass(frozen=True)
class TorchOriginal:
    """A torch module and its traced graph."""

    module: TorchClassifier
    classifier: GraphClassifier

    def errors(self, explainer: onnx.ModelProto, probes: Probes) -> dict[str, float]:
        """Compare an explainer with torch autograd; see `Original`.

        Where a Relu sits within rounding of 0, two float32 engines may choose different sides, and
        the gradients of a whole receptive field differ although both are right. So if a gradient is
        off in float32 by more than the limit but less than such kinks explain, both sides compute
        it once more in float64, where that does not happen, and this error counts; the float32
        error is reported as `gradient_float32` or `image_gradient_float32`.
        """
        session = Session(explainer.SerializeToString())
        outputs = [name for name in COMPARED if name in output_names(explainer)]
        errors: dict[str, float] = dict.fromkeys(outputs, 0.0)
        for feeds in probes:
            truth = self.module.reference(feeds["image"], feeds["target"])
            for name, value in zip(outputs, session.run(outputs, feeds), strict=True):
                error = _error(value, truth[name])
                if "gradient" in name and LIMIT < error < KINK_LIMIT:
                    in_float32 = f"{name}_float32"
                    errors[in_float32] = max(errors.get(in_float32, 0), error)
                    error = self._error_in_float64(explainer, name, feeds)
                errors[name] = max(errors[name], error)
        return errors

    def _error_in_float64(
        self, explainer: onnx.ModelProto, name: str, feeds: dict[str, NDArray[Any]]
    ) -> float:
        truth = self.module.reference(feeds["image"], feeds["target"], dtype=torch.float64)[name]
        double = {**feeds, "image": feeds["image"].astype(np.float64)}
        outputs: Any = evaluator(in_float64(with_outputs(explainer, [name]))).run(None, double)
        return _error(outputs[0], truth)


def open_torch(
    module: torch.nn.Module,
    *,
    layer: str | None,
    masker: MaskHead | None,
    input_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> TorchOriginal:
    """Trace a torch module, see `export_classifier`."""
    original = TorchClassifier(
        module, layer=layer, input_size=input_size, mean=mean, std=std, masker=masker
    )
    names = TensorNames(layer="layer", mask=None if masker is None else "mask")
    traced = find_classifier(
        original.to_onnx(), names=names, input_size=input_size, channels=len(mean)
    )
    found = replace(traced, layer=original.layer, source_sha256=weights_sha256(original.module))
    return TorchOriginal(original, found)


def _error(value: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the relative error of an output, which may have size 1 on constant axes."""
    return relative_error(np.broadcast_to(value, truth.shape), truth)
