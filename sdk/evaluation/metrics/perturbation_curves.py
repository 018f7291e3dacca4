"""Insertion and deletion: how soon does a class appear, or vanish, along the order of a map?

Petsiuk, Das, Saenko: RISE, randomized input sampling for explanation of black-box models, BMVC
2018, section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError

Classify = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From images [n, C, S, S] to the probabilities [n] of the class in question."""

BATCH: Final = 32
"""So many images at most exist at a time."""


def insertion(
    classify: Classify,
    image: NDArray[np.float32],
    saliency: NDArray[Any],
    *,
    steps: int = 28,
    sigma: float = 10.0,
) -> NDArray[np.float64]:
    """Return the class's probability while pixels enter a blurred image, most salient first.

    After step k, k / steps of the pixels (rounded down to whole pixels) are the image's own.
    Pixels of equal saliency enter row by row.

    Args:
        classify: Knows the class.
        image: [C, S, S].
        saliency: [S, S], of any range.
        steps: Number of steps.
        sigma: Standard deviation in pixels of the Gaussian that blurs the image.

    Returns:
        [steps + 1], from the blurred image to the whole one. See `area_under`: higher is better.

    Raises:
        InputError: shapes differ, the saliency holds NaN, or `classify` does not return one
            number per image.
        OptionError: steps or sigma are not above 0.
    """
    _check(image, saliency, steps)
    if not 0 < sigma < np.inf:
        raise OptionError(f"sigma is {sigma!r}, expected a number of pixels above 0")
    blurred = np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in image])
    return _curve(classify, blurred, image, saliency, steps)


def deletion(
    classify: Classify,
    image: NDArray[np.float32],
    saliency: NDArray[Any],
    *,
    fill: NDArray[np.float32],
    steps: int = 28,
) -> NDArray[np.float64]:
    """Return the class's probability while pixels turn to one colour, most salient first.

    Args:
        classify: Knows the class.
        image: [C, S, S].
        saliency: [S, S], of any range.
        fill: [C, 1, 1] colour in the image's range: the mean colour, 0 after normalisation.
        steps: See `insertion`.

    Returns:
        [steps + 1], from the whole image to none. See `area_under`: lower is better.

    Raises:
        InputError: as `insertion`.
        OptionError: steps are not above 0.
    """
    _check(image, saliency, steps)
    return _curve(classify, image, np.broadcast_to(fill, image.shape), saliency, steps)


def area_under(curve: NDArray[Any]) -> NDArray[np.float64]:
    """Return the area under curves [..., steps + 1] over the share of pixels 0..1, by trapezoids.

    Args:
        curve: What `insertion` or `deletion` returns, or a mean of it: the area under the mean
            curve is the mean of the areas.

    Returns:
        [...] in 0..1.

    Raises:
        InputError: a curve has less than two points.
    """
    if curve.ndim < 1 or curve.shape[-1] < 2:
        raise InputError(f"the curve has shape {list(curve.shape)}, expected [..., steps + 1]")
    return np.asarray(np.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), axis=-1), dtype=np.float64)


def _curve(
    classify: Classify,
    start: NDArray[np.float32],
    end: NDArray[np.float32],
    saliency: NDArray[Any],
    steps: int,
) -> NDArray[np.float64]:
    """Return [steps + 1] probabilities while pixels of `start` [C, S, S] become those of `end`."""
    order = np.argsort(-saliency.ravel(), kind="stable")
    ranks = np.empty(saliency.shape, dtype=np.int64)  # 0 is the most salient
    ranks.flat[order] = np.arange(saliency.size)
    changed = np.arange(steps + 1) * saliency.size // steps  # [steps + 1] pixels
    parts = []
    for first in range(0, steps + 1, BATCH):
        numbers = changed[first : first + BATCH, None, None, None]
        variants = np.where(ranks < numbers, end, start)  # [n, C, S, S]
        chances = np.asarray(classify(variants), dtype=np.float64)
        if chances.shape != (len(variants),):
            raise InputError(
                f"classify returned shape {list(chances.shape)} for {len(variants)} images, "
                "expected one probability each"
            )
        parts.append(chances)
    return np.concatenate(parts)


def _check(image: NDArray[Any], saliency: NDArray[Any], steps: int) -> None:
    if image.ndim != 3 or saliency.shape != image.shape[1:] or 0 in image.shape:
        raise InputError(
            f"got an image {list(image.shape)} and a saliency {list(saliency.shape)}, expected "
            "[C, S, S] and [S, S]"
        )
    if np.isnan(saliency).any():
        raise InputError("the saliency holds NaN, which has no place in an order")
    if steps < 1:
        raise OptionError(f"steps is {steps!r}, expected a whole number above 0")
