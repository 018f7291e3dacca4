"""The saliency metric: is what a map keeps small, and enough for the classifier?"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from klieg.errors import InputError

SMALLEST_AREA: Final = 0.05
"""Smaller crops are not rewarded further."""


def saliency_metric(area: ArrayLike, probability: ArrayLike) -> NDArray[np.float64]:
    """Return the saliency metric of each image; lower is better.

    SM of Dabkowski and Gal 2017: ln max(area, 0.05) - ln p.

    Args:
        area: [B] in 0..1, the share of the image that the map's box covers.
        probability: [B] in 0..1, what the classifier gives the true class when it sees only that
            box, enlarged to its input.

    Returns:
        [B]; infinity where the probability is 0.

    Raises:
        InputError: the shapes differ, or a value is not in 0..1.
    """
    areas, chances = np.asarray(area, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    if areas.shape != chances.shape:
        raise InputError(
            f"got areas {list(areas.shape)} and probabilities {list(chances.shape)}, expected one "
            "of each per image"
        )
    for name, values in (("area", areas), ("probability", chances)):
        if not ((values >= 0) & (values <= 1)).all():  # also refuses NaN
            raise InputError(f"{name} has values outside 0..1: shares, not pixels or percent")
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.maximum(areas, SMALLEST_AREA)) - np.log(chances))
