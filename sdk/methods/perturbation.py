"""What methods share that search for the mask which best hides, or best shows, a class.

An image fades into its blurred self where a mask is 0. An explainer file gives the gradient of the
class's logit, not of its probability, so the logit is the score. Its unit is the difference that
blurring the whole image makes: weights of other terms then carry over from model to model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.images.batch import Array, Batch, Indices
from klieg.methods.image_gradient import pixel_maps
from klieg.methods.model import Model, RawMaps, chosen_classes, images_per_pass

Floats = NDArray[np.float64]

ROUNDING: Final = 1e-6
"""Of two logits: what they differ by at least if they differ."""
SOFTNESS: Final = 0.625
"""Standard deviation, in cells, of the Gaussian that enlarges masks: Fong 2017, 5 of 8 pixels."""


class Fading:
    """M images, each faded by A masks into its blurred self."""

    def __init__(self, model: Model, images: Array, targets: Indices, *, blur: float) -> None:
        """Blur the images and score both ends.

        Args:
            model: The classifier.
            images: [M, C, S, S] in 0..255.
            targets: [M] the class of each.
            blur: Standard deviation of the Gaussian, relative to the size S.
        """
        self._model, self._targets = model, targets
        self._blurred = np.stack([_blurred(image, blur * image.shape[1]) for image in images])
        self._difference = images - self._blurred
        rows = np.arange(len(images)), targets
        whole = model.logits(images)[rows].astype(np.float64)
        none = model.logits(self._blurred)[rows].astype(np.float64)
        unit = np.abs(whole - none)
        self.reacts: NDArray[np.bool_] = unit > ROUNDING * np.maximum(np.abs(whole), np.abs(none))
        """[M] False where the class does not care whether the image is blurred."""
        self._whole, self._unit = whole, np.where(self.reacts, unit, 1)

    def score(self, masks: NDArray[Any]) -> tuple[Floats, Floats]:
        """Return how much higher the score is than that of the whole image, and the gradient.

        Args:
            masks: [M, A, S, S] in 0..1: 1 shows a pixel as it is, 0 blurred.

        Returns:
            Scores [M, A]: 0 for the whole image, -1 for the blurred one (+1 if blurring speaks for
            the class); and their gradients by the masks [M, A, S, S]. Zeros where `reacts` is not.
        """
        m, a, size, _ = masks.shape
        shown = masks.astype(np.float32)[:, :, None] * self._difference[:, None]
        shown += self._blurred[:, None]  # [M, A, C, S, S]
        question = Batch.single(shown.reshape(m * a, -1, size, size), np.repeat(self._targets, a))
        logits, gradients = self._model.run(question, ("logits", "image_gradient"))
        scores = np.stack(logits)[np.arange(m * a), question.targets].reshape(m, a)
        by_pixel = np.einsum(
            "machw,mchw->mahw", np.stack(gradients).reshape(shown.shape), self._difference
        )
        factor = (self.reacts / self._unit)[:, None]
        return (scores - self._whole[:, None]) * factor, by_pixel * factor[:, :, None, None]


def search_masks(
    model: Model,
    batch: Batch,
    search: Callable[[Fading], Iterable[Array]],
    *,
    blur: float,
    masks: int = 1,
) -> RawMaps:
    """Search a map for every question, as many at once as go into one pass.

    Args:
        model: The classifier.
        batch: Images and classes.
        search: Returns M maps [S, S] of M questions.
        blur: See `Fading`.
        masks: Number A of masks that the search tries at once per question.
    """
    logits = model.logits(batch.images)[batch.image_index]  # [N, classes]
    classes = chosen_classes(logits, batch.targets)
    part = max(1, images_per_pass(*batch.images.shape[2:]) // masks)
    maps: list[Array] = []
    for start in range(0, len(classes), part):
        rows = slice(start, start + part)
        maps.extend(
            search(Fading(model, batch.images[batch.image_index[rows]], classes[rows], blur=blur))
        )
    return pixel_maps(maps, logits, classes)


def adam(
    start: Floats, gradient: Callable[[Floats, int], Floats], *, steps: int, rate: float
) -> Floats:
    """Minimise by Adam over values in 0..1.

    Kingma, Ba: Adam, ICLR 2015, algorithm 1 with its beta of 0.9 and 0.999; every step is cut off
    to 0..1.

    Args:
        start: Values to start from.
        gradient: (values, number of the step from 0) -> gradient by the values.
        steps: Number of steps.
        rate: Size of a step.
    """
    values, mean, square = start, np.zeros_like(start), np.zeros_like(start)
    for step in range(steps):
        slope = gradient(values, step)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        expected, spread = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.999 ** (step + 1))
        values = (values - rate * expected / (np.sqrt(spread) + 1e-8)).clip(0, 1)
    return values


def enlarging(size: int, cells: int) -> Floats:
    """Return the matrix E [size, cells] that enlarges masks: E @ grid @ E.T.

    A pixel is the mean of the cells around it under a Gaussian. Rows sum to 1, so that masks stay
    in 0..1. The adjoint, which carries gradients back, is E.T @ gradient @ E.
    """
    centres = (np.arange(size) + 0.5) * cells / size - 0.5  # in cells
    distance = (centres[:, None] - np.arange(cells)) / SOFTNESS
    weight = np.exp(-(distance**2) / 2)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _blurred(image: Array, sigma: float) -> Array:
    """Blur [C, S, S]; beyond the border the image is mirrored."""
    return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in image])
