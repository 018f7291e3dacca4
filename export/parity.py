"""Exporting without comparing numbers is not exporting: the explainer against its original."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from klieg.errors import ParityError
from klieg.export.finite_differences import gradient_error
from klieg.export.float64 import evaluator, in_float64
from klieg.export.onnx_classifier import GraphClassifier, with_final_operator
from klieg.export.parity_inputs import random_images, two_targets
from klieg.export.session import open_session

if TYPE_CHECKING:
    from klieg.export.torch_classifier import TorchClassifier

Array = NDArray[np.float32]

LIMIT: Final = 1e-3
"""Largest relative error an export may have; float32 rounding alone gives about 1e-6."""

KINK_LIMIT: Final = 0.1
"""Largest float32 error of a gradient that is right in float64: see `against_torch`."""


def against_torch(
    explainer: onnx.ModelProto,
    original: TorchClassifier,
    *,
    sizes: Iterable[int],
    channels: int,
    classes: int,
) -> dict[str, float]:
    """Compare an explainer with torch autograd.

    Where a Relu sits within rounding of 0, two float32 engines may choose different sides, and the
    gradients of a whole receptive field differ although both are right. So if the gradient is off
    in float32 by more than the limit but less than such kinks explain, both sides compute it once
    more in float64, where that does not happen, and this error counts; the float32 error is
    reported as `gradient_float32`.

    Args:
        explainer: An instrumented classifier.
        original: What it was made from.
        sizes: Image sizes to compare at, two images of two classes each.
        channels: Number of channels of an image.
        classes: Number of classes.

    Returns:
        The largest relative error of `logits`, `activation` and `gradient`.
    """
    session = open_session(explainer.SerializeToString())
    outputs = ("logits", "activation", "gradient")
    errors = dict.fromkeys(outputs, 0.0)
    for seed, size in enumerate(sizes):
        images = random_images(size, channels=channels, seed=seed)
        targets = two_targets(classes, seed=seed)
        feeds = {"image": images, "target": np.array(targets)}
        truth = original.reference(images, targets)
        for name, value in zip(outputs, session.run(outputs, feeds), strict=True):
            error = relative_error(np.broadcast_to(value, truth[name].shape), truth[name])
            if name == "gradient" and LIMIT < error < KINK_LIMIT:
                errors["gradient_float32"] = max(errors.get("gradient_float32", 0), error)
                error = _gradient_error_in_float64(explainer, original, images, targets)
            errors[name] = max(errors[name], error)
    return errors


def against_onnx(
    explainer: onnx.ModelProto,
    original: onnx.ModelProto,
    classifier: GraphClassifier,
    *,
    sizes: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, float]:
    """Compare an explainer with the ONNX model it was made from, its gradient with differences.

    Args:
        explainer: An instrumented classifier.
        original: What it was made from.
        classifier: What was found in the original.
        sizes: Image sizes to compare at, two images of two classes each.
        mean: Mean per channel in 0..1 units.
        std: Standard deviation per channel in 0..1 units.

    Returns:
        The largest relative error of `logits` and `gradient`.
    """
    channels, classes = len(mean), classifier.classes
    complete = with_final_operator(explainer, classifier.final_operator)
    session = open_session(complete.SerializeToString())
    truth_session = open_session(original.SerializeToString())
    errors = {"logits": 0.0}
    for seed, size in enumerate(sizes):
        images = random_images(size, channels=channels, seed=seed)
        targets = np.array(two_targets(classes, seed=seed))
        (logits,) = session.run(["logits"], {"image": images, "target": targets})
        shape = (1, channels, 1, 1)
        normalised = (images / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
        feeds = {classifier.image_name: normalised.astype(np.float32)}
        (truth,) = truth_session.run([classifier.score_name], feeds)
        errors["logits"] = max(errors["logits"], relative_error(logits, truth))
    errors["gradient"] = gradient_error(explainer, sizes=sizes, channels=channels, classes=classes)
    return errors


def check(errors: Mapping[str, float]) -> None:
    """Raise ParityError if an error exceeds the limit."""
    limits = {"gradient_float32": KINK_LIMIT}
    wrong = {n: error for n, error in errors.items() if not error <= limits.get(n, LIMIT)}
    if wrong:
        listed = ", ".join(f"{name} {error:.1e}" for name, error in wrong.items())
        raise ParityError(
            f"the explainer disagrees with the original by a relative error of {listed} "
            f"(at most {LIMIT:.0e} is accepted); nothing was written. If the model is random or "
            "training-dependent, fix that; otherwise please report it with the model"
        )


def relative_error(got: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return |got - truth| / |truth| in the Euclidean norm; 0 if both are zero."""
    difference = float(np.linalg.norm((got.astype(np.float64) - truth).ravel()))
    norm = float(np.linalg.norm(truth.astype(np.float64).ravel()))
    return difference / norm if norm else (0.0 if difference == 0 else np.inf)


def _gradient_error_in_float64(
    explainer: onnx.ModelProto, original: TorchClassifier, images: Array, targets: list[int]
) -> float:
    import torch

    truth = original.reference(images, targets, dtype=torch.float64)["gradient"]
    feeds = {"image": images.astype(np.float64), "target": np.array(targets)}
    outputs: Any = evaluator(in_float64(explainer)).run(["gradient"], feeds)
    return relative_error(np.broadcast_to(outputs[0], truth.shape), truth)
