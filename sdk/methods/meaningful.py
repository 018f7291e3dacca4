"""Meaningful perturbations: the smallest smooth part whose deletion removes the class.

Fong, Vedaldi: Interpretable explanations of black boxes by meaningful perturbation, ICCV 2017, the
deletion game. Departures: the score is the logit, not the probability, and like a probability it
has a floor: nothing is won by a score below that of the blurred image, where a logit could still
fall. The search starts from one value everywhere instead of a circle, and does without jitter: the
mask is smooth, and the result needs no random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from klieg.images.batch import Array, Batch
from klieg.methods.model import Model, RawMaps
from klieg.methods.perturbation import Fading, Floats, adam, enlarging, search_masks

BLUR: Final = 10 / 224
AREA: Final = 1.0
"""What deleting the whole image costs, in units of the score."""
VARIATION: Final = 0.01
"""What two neighbouring cells cost of which only one is deleted."""
BETA: Final = 3
RATE: Final = 0.1


def meaningful(
    model: Model, batch: Batch, sizes: Sequence[int], *, steps: int, cells: int
) -> RawMaps:
    """Search a mask that lowers the class's score most, with little of the image deleted.

    `raw` is 1 where the image has to be deleted, 0 where it may stay.

    Args:
        model: The classifier.
        batch: Images and classes.
        sizes: The size S of the images.
        steps: Steps of Adam, each a pass with the gradient.
        cells: Cells of the mask along each side.
    """
    enlarge = enlarging(sizes[0], cells)

    def search(fading: Fading) -> Array:
        start = np.full((len(fading.reacts), cells, cells), 0.5)
        shown = adam(start, lambda grid, _: slope(fading, enlarge, grid), steps=steps, rate=RATE)
        return (enlarge @ (1 - shown) @ enlarge.T).astype(np.float32)

    return search_masks(model, batch, search, blur=BLUR)


def slope(fading: Fading, enlarge: Floats, grid: Floats) -> Floats:
    """Return the gradient of the objective by the cells of masks [M, cells, cells] in 0..1.

    The objective is max(score, -1) + AREA mean(1 - mask) + VARIATION sum |difference|^BETA, the sum
    over all pairs of neighbours.
    """
    score, by_mask = fading.score((enlarge @ grid @ enlarge.T)[:, None])
    by_mask = by_mask[:, 0] * (score > -1)[:, :, None]
    result = enlarge.T @ by_mask @ enlarge - AREA / grid[0].size
    for axis in (1, 2):
        step = np.diff(grid, axis=axis)
        rise = VARIATION * BETA * np.sign(step) * np.abs(step) ** (BETA - 1)
        edge = [(0, 0), (0, 0), (0, 0)]
        edge[axis] = (1, 1)
        result -= np.diff(np.pad(rise, edge), axis=axis)
    return np.asarray(result)
