"""Exporting without comparing numbers is not exporting: the explainer against its original."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from klieg.errors import ExportError, ParityError
from klieg.export.classifiers.onnx_classifier import GraphClassifier, with_final_operator
from klieg.export.parity.finite_differences import gradient_error, with_outputs
from klieg.export.parity.float64 import doubled, evaluator, in_float64
from klieg.export.random_images import random_images, two_targets
from klieg.export.session import Session
from klieg.model_file.outputs import OUTPUTS

if TYPE_CHECKING:
    from klieg.export.classifiers.torch_classifier import TorchClassifier

Array = NDArray[np.float32]

LIMIT: Final = 1e-3
"""Largest relative error an export may have; float32 rounding alone gives about 1e-6."""

KINK_LIMIT: Final = 0.1
"""Largest float32 error of what is right in float64: see `against_torch`, `against_onnx`."""


COMPARED: Final = tuple(name for name, output in OUTPUTS.items() if output.compared)


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
    gradients of a whole receptive field differ although both are right. So if a gradient is off in
    float32 by more than the limit but less than such kinks explain, both sides compute it once more
    in float64, where that does not happen, and this error counts; the float32 error is reported as
    `gradient_float32` or `image_gradient_float32`.

    Args:
        explainer: An instrumented classifier.
        original: What it was made from.
        sizes: Image sizes to compare at, two images of two classes each.
        channels: Number of channels of an image.
        classes: Number of classes.

    Returns:
        The largest relative error of each output in `COMPARED` that the explainer has.
    """
    session = Session(explainer.SerializeToString())
    outputs = [name for name in COMPARED if name in _outputs(explainer)]
    errors: dict[str, float] = dict.fromkeys(outputs, 0.0)
    for seed, size in enumerate(sizes):
        images = random_images(size, channels=channels, seed=seed)
        targets = two_targets(classes, seed=seed)
        feeds = {"image": images, "target": np.array(targets)}
        truth = original.reference(images, targets)
        for name, value in zip(outputs, session.run(outputs, feeds), strict=True):
            error = relative_error(np.broadcast_to(value, truth[name].shape), truth[name])
            if "gradient" in name and LIMIT < error < KINK_LIMIT:
                in_float32 = f"{name}_float32"
                errors[in_float32] = max(errors.get(in_float32, 0), error)
                error = _error_in_float64(explainer, original, name, images, targets)
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

    A quantised model moves by whole steps of its grid at differences that float32 rounds away, by
    more of them layer by layer. So its logits are compared without rounding to the grid, in
    float64, and the error with rounding is reported as `logits_rounded`.

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
    complete = with_final_operator(explainer, classifier.score.final_operator)
    session = Session(complete.SerializeToString())
    truth_session = Session(original.SerializeToString())
    errors = {"logits": 0.0}
    for seed, size in enumerate(sizes):
        images = random_images(size, channels=channels, seed=seed)
        targets = np.array(two_targets(classes, seed=seed))
        (logits,) = session.run(["logits"], {"image": images, "target": targets})
        shape = (1, channels, 1, 1)
        normalised = (images / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
        truth = _original_scores(truth_session, classifier, normalised)
        errors["logits"] = max(errors["logits"], relative_error(logits, truth))
    if any(node.op_type == "QuantizeLinear" for node in original.graph.node):
        errors["logits_rounded"] = errors["logits"]
        errors["logits"] = _unrounded_error(complete, original, classifier, sizes[0], mean, std)
    for name, wrt in (("gradient", "activation"), ("image_gradient", "image")):
        if name in _outputs(explainer):
            errors[name] = gradient_error(
                explainer, gradient=name, wrt=wrt, sizes=sizes, channels=channels, classes=classes
            )
    return errors


def _unrounded_error(
    explainer: onnx.ModelProto,
    original: onnx.ModelProto,
    classifier: GraphClassifier,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> float:
    """Return the relative error of the logits of two images, see `unrounded`."""
    images = random_images(size, channels=len(mean), seed=0).astype(np.float64)
    shape = (1, len(mean), 1, 1)
    normalised = (images / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
    complete = _InFloat64(with_outputs(explainer, ["logits"]))
    targets = np.array(two_targets(classifier.classes, seed=0))
    (logits,) = complete.run(["logits"], {"image": images, "target": targets})
    truth = _original_scores(_InFloat64(original), classifier, normalised)
    return relative_error(logits, truth)


class _InFloat64:
    """A model that computes in float64, asked like a session."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = evaluator(in_float64(model))

    def run(self, outputs: list[str], feeds: dict[str, NDArray[Any]]) -> Any:
        return self._evaluator.run(outputs, {name: doubled(value) for name, value in feeds.items()})


def _original_scores(
    session: Any, classifier: GraphClassifier, normalised: NDArray[np.float64]
) -> NDArray[Any]:
    """Run the original on normalised images [B, C, H, W], one by one if it takes no more."""
    parts = np.split(normalised, len(normalised)) if classifier.image_input.one_by_one else None
    scores = [
        session.run([classifier.score.name], classifier.image_input.feeds(part))[0]
        for part in parts or [normalised]
    ]
    return np.concatenate(scores).reshape(len(normalised), -1)


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
    names = _outputs(explainer)
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


def check(errors: Mapping[str, float]) -> None:
    """Raise ParityError if an error exceeds the limit."""
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


def relative_error(got: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return |got - truth| / |truth| in the Euclidean norm: 0 if both are zero, inf for NaN."""
    difference = float(np.linalg.norm((got.astype(np.float64) - truth).ravel()))
    if np.isnan(difference):
        return np.inf  # the larger of a number and NaN would be the number
    norm = float(np.linalg.norm(truth.astype(np.float64).ravel()))
    return difference / norm if norm else (0.0 if difference == 0 else np.inf)


def _error_in_float64(
    explainer: onnx.ModelProto,
    original: TorchClassifier,
    name: str,
    images: Array,
    targets: list[int],
) -> float:
    import torch

    truth = original.reference(images, targets, dtype=torch.float64)[name]
    feeds = {"image": images.astype(np.float64), "target": np.array(targets)}
    outputs: Any = evaluator(in_float64(with_outputs(explainer, [name]))).run(None, feeds)
    return relative_error(np.broadcast_to(outputs[0], truth.shape), truth)


def _outputs(explainer: onnx.ModelProto) -> list[str]:
    return [value.name for value in explainer.graph.output]
