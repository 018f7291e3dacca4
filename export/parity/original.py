"""Comparison of an explainer with the classifier it was made from: what is compared, how near."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from klieg.errors import ExportError, ParityError
from klieg.export.classifiers.onnx_classifier import GraphClassifier
from klieg.export.random_images import Probes, random_images, two_targets
from klieg.export.session import Session
from klieg.model_file.outputs import OUTPUTS

Array = NDArray[np.float32]

LIMIT: Final = 1e-3
"""Largest relative error an export may have; float32 rounding alone gives about 1e-6."""

KINK_LIMIT: Final = 0.1
"""Largest float32 error of what is right in float64: see `TorchOriginal`, `OnnxOriginal`."""


class Original(Protocol):
    """A classifier as it was handed over."""

    @property
    def classifier(self) -> GraphClassifier:
        """Its graph, in which image, logits and layer are found."""

    def errors(self, explainer: onnx.ModelProto, probes: Probes) -> dict[str, float]:
        """Return the largest relative error of every output that has a truth at export.

        Args:
            explainer: An instrumented classifier.
            probes: The inputs to compare at.
        """


def of_several_targets(
    explainer: onnx.ModelProto, *, size: int, channels: int, classes: int
) -> float:
    """Compare two targets per image in one run with two runs of one target per image.

    `image_gradient` has to be the sum over the targets, the rows of `gradient`, `excitation` and
    `contrast` those of the single runs; logits, activation and mask have one row per image.

    Returns:
        The largest relative difference of an output; infinite if the engine refuses the run.
    """
    session = Session(explainer.SerializeToString())
    names = output_names(explainer)
    images = random_images(size, channels=channels, seed=0)
    pairs = np.array([two_targets(classes, seed=seed) for seed in (0, 1)])  # [image, target]

    def run(targets: NDArray[np.int64]) -> dict[str, Array]:
        values = session.run(names, {"image": images, "target": targets})
        return dict(zip(names, values, strict=True))

    one, other = run(pairs[:, 0]), run(pairs[:, 1])
    try:
        together = run(pairs.ravel())
    except ExportError:
        return np.inf
    worst = 0.0
    for name, value in together.items():
        output = OUTPUTS[name]
        if output.rows == "image":
            truth = one[name]
        elif output.form == "image":
            if not output.additive:  # one class per image only: nothing to compare
                continue
            truth = one[name] + other[name]
        else:
            truth = np.stack([one[name], other[name]], axis=1).reshape(-1, *one[name].shape[1:])
        same = value.shape == truth.shape
        worst = max(worst, relative_error(value, truth) if same else np.inf)
    return worst


def checked(errors: dict[str, float]) -> dict[str, float]:
    """Return relative errors, or raise ParityError if one exceeds its limit."""
    wrong = {
        name: error
        for name, error in errors.items()
        if not error <= (KINK_LIMIT if name.endswith(("_float32", "_rounded")) else LIMIT)
    }
    if wrong:
        listed = ", ".join(f"{name} {error:.1e}" for name, error in wrong.items())
        raise ParityError(
            f"the explainer disagrees with the original by a relative error of {listed} "
            f"(at most {LIMIT:.0e} is accepted); nothing was written. If the model is random or "
            "training-dependent, fix that; otherwise please report it with the model"
        )
    return errors


def relative_error(got: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return |got - truth| / |truth| in the Euclidean norm: 0 if both are zero, inf for NaN."""
    difference = float(np.linalg.norm((got.astype(np.float64) - truth).ravel()))
    if np.isnan(difference):
        return np.inf  # the larger of a number and NaN would be the number
    norm = float(np.linalg.norm(truth.astype(np.float64).ravel()))
    return difference / norm if norm else (0.0 if difference == 0 else np.inf)


def output_names(explainer: onnx.ModelProto) -> list[str]:
    """Return the names of the outputs of an explainer."""
    return [value.name for value in explainer.graph.output]
