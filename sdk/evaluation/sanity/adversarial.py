"""Adversarial attacks that a map guides, and scores of the map from them.

Jalwana et al.: CAMERAS, CVPR 2021: a precise map tells where an image must be changed to fool the
model, and where a fooled image must be restored. The explainer file must have the gradient by the
image (`klieg export --methods saliency`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError
from klieg.images.batch import Array, Batch, Indices
from klieg.model_file.probabilities import probabilities

if TYPE_CHECKING:
    from klieg.explainer import Explainer


@dataclass(frozen=True)
class AttackResult:
    """The result of an attack on B images."""

    perturbation: Array
    """[B, C, S, S], to be added to the images in 0..255."""
    norms: NDArray[np.float64]
    """[B] l2 norm of the perturbation, in units of the image's whole range (255)."""
    confidence: NDArray[np.float64]
    """[B] probability of the target on the attacked image, 0..1: the fooling confidence."""
    targets: Indices
    """[B] the class that the attack aimed at, the least likely one."""


def guided_attack(
    explainer: Explainer,
    images: Array,
    maps: Array,
    *,
    bound: float = 12.0,
    beta: float = 50.0,
    steps: int = 60,
    step_size: float = 1.0,
) -> AttackResult:
    """Make the least likely class the predicted one by changes that keep to a map.

    Projected gradient descent (Madry et al., 2018) on the perturbation p, in units of the image's
    range: cross entropy of image + p towards the target, plus beta rms(p (1 - m)). Each step moves
    every value by the step size, which falls linearly to nothing so that the pixels outside the map
    come to rest, and is then cut off at the bound and at the ends of the image's range. With beta 0
    the map plays no part: that is the attack to compare with, see `norm_reduction`.

    The file answers for one class per question, so the cross entropy is taken over two classes: the
    target and its strongest rival before the step. Whichever class comes to the top becomes the
    rival, so that it sinks only as the cross entropy over all classes does.

    The paper gives beta = 50 but not the unit of p. Here the norm is the root mean square over all
    values in units of the image's range: with the plain norm of so many values the attack is held
    back more than it should be (EfficientNet-Lite0, four photos, 60 steps: fooling confidence below
    5 %, where the paper has 99.99 %).

    Args:
        explainer: An explainer whose file has the gradient by the image.
        images: [B, C, S, S] in 0..255.
        maps: [B, S, S] in 0..1.
        bound: Largest change of a value, in 0..255.
        beta: Weight of the changes outside the map.
        steps: Number of steps.
        step_size: Change of a value in the first step, in 0..255.

    Raises:
        InputError: shapes or ranges differ from these.
        OptionError: an option has an impossible value, or the file lacks the image's gradient.
        BackendError: the engine failed, or the model returned NaN.
    """
    _check_images(images, maps)
    if not (bound > 0 and beta >= 0 and steps >= 1 and step_size > 0):
        raise OptionError(
            f"bound {bound}, beta {beta}, steps {steps}, step_size {step_size}: expected more "
            "than 0, 0 or more, at least 1, and more than 0"
        )
    explainer.check_outputs("an attack", {"image_gradient"})
    model = explainer.model
    lowest, highest = np.maximum(images - bound, 0), np.minimum(images + bound, 255)
    outside = 1 - maps[:, None]  # [B, 1, S, S]
    logits = model.logits(images)  # [B, classes]
    targets = logits.argmin(axis=1)
    attacked = images
    for step in range(steps):
        rivals = strongest_rivals(logits, targets)
        logits, uphill = _cross_entropy_gradient(explainer, attacked, targets, rivals)
        uphill = uphill + beta * _spread_gradient((attacked - images) / 255 * outside) * outside
        moved = attacked - step_size * (1 - step / steps) * np.sign(uphill)
        attacked = np.clip(moved, lowest, highest).astype(np.float32)
    chances = probabilities(model.logits(attacked), model.probability)
    return AttackResult(
        perturbation=attacked - images,
        norms=_norms((attacked - images) / 255),
        confidence=chances[np.arange(len(targets)), targets].astype(np.float64),
        targets=targets,
    )


def norm_reduction(guided: AttackResult, unguided: AttackResult) -> NDArray[np.float64]:
    """Return how much smaller [B] a map made the perturbation of each image: 0.5 is half the norm.

    Args:
        guided: The result of `guided_attack`.
        unguided: That of the same call with beta 0.

    Raises:
        InputError: the attacks were not on the same images.
    """
    if not np.array_equal(guided.targets, unguided.targets):
        raise InputError("the attacks aimed at different classes, expected one set of images")
    return np.asarray(1 - guided.norms / unguided.norms)


def restoration_sanity(
    explainer: Explainer,
    images: Array,
    attack: AttackResult,
    maps: Array,
    *,
    share: float = 0.1,
    points: int = 11,
) -> NDArray[np.float64]:
    """Return how late the model recovers as attacked pixels are restored.

    From the attacked image pixels are restored in descending order of the map, ties in reading
    order. With P the probability of the class that is predicted for the image itself, A the area
    under P against the restored pixels (trapezoids between equally spaced points) and A_ideal that
    under P of the image: (A_ideal - A) / A_ideal.

    Args:
        explainer: An explainer.
        images: [B, C, S, S] in 0..255, before the attack.
        attack: The attack on them.
        maps: [B, S, S].
        share: Fraction of the pixels that is restored in the end.
        points: Number of points on the curve, the attacked image included.

    Returns:
        [B], the smaller the better: 0 if the model recovers at once, 1 if it does not at all.

    Raises:
        InputError: shapes or ranges differ from these.
        OptionError: an option has an impossible value.
        BackendError: the engine failed, or the model returned NaN.
    """
    _check_images(images, maps)
    if attack.perturbation.shape != images.shape:
        raise InputError(
            f"the perturbation has shape {list(attack.perturbation.shape)}, the images "
            f"{list(images.shape)}, expected the same: pass the attack on these images"
        )
    if not (0 < share <= 1 and points >= 2):
        raise OptionError(f"share is {share} and points {points}, expected in 0..1, and at least 2")
    model = explainer.model

    def likelihood(shown: Array, classes: Indices) -> NDArray[Any]:
        return probabilities(model.logits(shown), model.probability)[rows, classes]

    rows = np.arange(len(images))
    classes = model.logits(images).argmax(axis=1)
    pixels = maps[0].size
    order = np.argsort(-maps.reshape(len(maps), pixels), axis=1, kind="stable")
    rank = np.empty_like(order)  # [B, S * S] the place of each pixel in the order
    np.put_along_axis(rank, order, np.arange(pixels)[None], axis=1)
    rank = rank.reshape(len(maps), 1, *maps.shape[1:])
    counts = np.linspace(0, share * pixels, points).round()
    curve = np.stack(  # [points, B]
        [likelihood(images + attack.perturbation * (rank >= count), classes) for count in counts]
    ).astype(np.float64)
    ideal = likelihood(images, classes) * (counts[-1] - counts[0])
    return np.asarray((ideal - np.trapezoid(curve, counts, axis=0)) / ideal)


def strongest_rivals(logits: Array, targets: Indices) -> Indices:
    """Return the most likely class [B] besides the target."""
    others = logits.copy()
    others[np.arange(len(targets)), targets] = -np.inf
    return np.asarray(others.argmax(axis=1))


def _cross_entropy_gradient(
    explainer: Explainer, images: Array, targets: Indices, rivals: Indices
) -> tuple[Array, NDArray[np.float64]]:
    """Return logits [B, classes] and the gradient [B, C, S, S] by the image in units of 255.

    Of ln(1 + exp(rival - target)), the cross entropy over two classes.
    """
    batch = Batch(
        images, np.stack([targets, rivals], axis=1).ravel(), np.repeat(np.arange(len(images)), 2)
    )
    rows, gradients = explainer.model.run(batch, ("logits", "image_gradient"))
    logits = np.stack(rows[::2])
    index = np.arange(len(images))
    lead = logits[index, targets].astype(np.float64) - logits[index, rivals]
    doubt = np.exp(-np.logaddexp(0, lead))[:, None, None, None]  # 1 / (1 + exp(lead))
    return logits, 255 * doubt * (np.stack(gradients[1::2]) - np.stack(gradients[::2]))


def _norms(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the l2 norm [B] of [B, C, S, S]."""
    return np.asarray(np.sqrt(np.square(values, dtype=np.float64).sum(axis=(1, 2, 3))))


def _spread_gradient(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the gradient of the root mean square; 0 at 0, where it has none."""
    norms = _norms(values)[:, None, None, None]
    return np.asarray(values / np.where(norms > 0, norms, 1) / np.sqrt(values[0].size))


def _check_images(images: Array, maps: Array) -> None:
    if images.ndim != 4 or maps.shape != (len(images), *images.shape[2:]) or not len(images):
        raise InputError(
            f"images have shape {list(images.shape)} and maps {list(maps.shape)}, expected "
            "[B, C, S, S] and [B, S, S]"
        )
    for name, values, highest in (("images", images, 255), ("maps", maps, 1)):
        if not ((values >= 0) & (values <= highest)).all():  # also refuses NaN
            raise InputError(f"the {name} have values outside 0..{highest}, or NaN")
