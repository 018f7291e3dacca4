"""Class models: the image that a classifier takes for the best example of a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import OptionError, TargetError
from klieg.images.batch import Batch
from klieg.images.targets import Target, resolve_target

if TYPE_CHECKING:
    from klieg.explainer import Explainer

START_NOISE: Final = 1.0
"""Standard deviation of the first image in 0..255: a flat image has no edge to begin with."""


@dataclass(frozen=True)
class ClassModel:
    """An image that was made to be recognised, and how that went."""

    image: NDArray[np.float32]
    """[S, S, C] RGB in 0..255."""
    scores: NDArray[np.float32]
    """[steps + 1] logit of the class, from the first image to the last."""
    target: int
    """The class."""


def class_model(
    explainer: Explainer,
    target: Target,
    *,
    steps: int = 200,
    learning_rate: float = 2.0,
    l2: float = 0.01,
    seed: int = 0,
) -> ClassModel:
    """Climb from a nearly flat image of the mean colour to one that maximises the class's logit.

    Simonyan, Vedaldi, Zisserman: Deep inside convolutional networks, 2014, section 2: the image I
    that maximises logit(I) - l2 |I - mean|^2, values in 0..1, by gradient ascent. Steps have one
    length, whatever the scale of the model's gradient; values that leave 0..255 are cut off.

    Args:
        explainer: An explainer whose file was exported with `--methods saliency`.
        target: Number or name of the class.
        steps: Number of steps.
        learning_rate: Root mean square change of the pixels in a step, in 0..255.
        l2: Weight of the squared distance from the mean colour.
        seed: Seed of the first image.

    Raises:
        TargetError: there is no such class.
        OptionError: an option has an impossible value, or the file lacks the image's gradient.
        BackendError: the engine failed, or the model returned NaN.
    """
    if target is None:
        raise TargetError("got no target, expected the number or name of a class to model")
    info = explainer.info
    index = resolve_target(target, classes=explainer.classes, names=info.class_names)
    explainer.check_outputs("a class model", {"image_gradient"})
    if steps < 1 or not (learning_rate > 0 and l2 >= 0):
        raise OptionError(
            f"steps {steps}, learning_rate {learning_rate}, l2 {l2}: expected at least 1, "
            "more than 0, and 0 or more"
        )
    model, size, targets = explainer.model, info.input_size, np.array([index])
    mean = model.mean_colour  # [C, 1, 1]
    normal = np.random.default_rng(seed).standard_normal((len(mean), size, size), np.float32)
    image = (mean + START_NOISE * normal).clip(0, 255)  # [C, S, S]
    scores = []
    for _ in range(steps):
        (logits,), (gradient,) = model.run(
            Batch.single(image[None], targets), ("logits", "image_gradient")
        )
        scores.append(logits[index])
        uphill = gradient - 2 * l2 * (image - mean) / 255**2
        length = np.sqrt(np.mean(uphill**2))
        if length == 0:
            break
        image = (image + learning_rate / length * uphill).clip(0, 255)
    scores.append(model.logits(image[None])[0, index])
    picture = np.ascontiguousarray(image.transpose(1, 2, 0), dtype=np.float32)
    return ClassModel(picture, np.array(scores, dtype=np.float32), index)
