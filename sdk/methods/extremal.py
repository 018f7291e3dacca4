"""Extremal perturbations: of all smooth masks of a given area, the one that shows the class best.

Fong, Patrick, Vedaldi: Understanding deep networks via extremal perturbations and smooth masks,
ICCV 2019: the preservation game with the constraint on the ranked area, and masks by a smooth
maximum convolution. Departures: the image fades into one blurred image instead
of being blurred more and more; the convolution works on the coarse grid, which is then enlarged;
Adam instead of gradient descent with momentum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from klieg.images.batch import Array, Batch
from klieg.methods.model import Model, RawMaps
from klieg.methods.perturbation import Fading, Floats, adam, enlarging, search_masks

AREAS: Final = (0.05, 0.1, 0.2, 0.4)
"""Shares of the image that masks show."""
BLUR: Final = 20 / 224
WEIGHT_FIRST: Final = 3.0
WEIGHT_LAST: Final = 300.0
"""Of the area against the score: grows with the steps, by the same factor from each to the next."""
RATE: Final = 0.05
RADIUS: Final = 4
"""How far a cell reaches, in cells."""
TEMPERATURE: Final = 1 / 20
"""Of the smooth maximum."""
TIE: Final = 1e-6
"""Pixels that differ by less are equal: enlarging a flat grid leaves rounding, no order."""


def extremal(
    model: Model, batch: Batch, sizes: Sequence[int], *, steps: int, cells: int
) -> RawMaps:
    """Average the masks of several areas that raise the class's score most.

    `raw` is the share of the areas whose mask shows a pixel: 1 where even the smallest does. Masks
    of all areas are search_masks at once. Where the class does not react to blurring, `raw` is 0.

    Args:
        model: The classifier.
        batch: Images and classes.
        sizes: The size S of the images.
        steps: Steps of Adam, each a pass with the gradient, of one image per area.
        cells: Cells of a mask along each side.
    """
    enlarge = enlarging(sizes[0], cells)
    growth = (WEIGHT_LAST / WEIGHT_FIRST) ** (1 / steps)

    def search(fading: Fading) -> Array:
        side = cells + 2 * RADIUS
        start = np.full((len(fading.reacts), len(AREAS), side, side), 0.5)
        grid = adam(
            start,
            lambda grid, step: slope(fading, enlarge, grid, WEIGHT_FIRST * growth**step),
            steps=steps,
            rate=RATE,
        )
        masks = enlarge @ dilated(grid) @ enlarge.T  # [M, A, S, S]
        masks *= fading.reacts[:, None, None, None]
        return np.asarray(masks.mean(axis=1), dtype=np.float32)

    return search_masks(model, batch, search, blur=BLUR, masks=len(AREAS))


def slope(fading: Fading, enlarge: Floats, grid: Floats, weight: float) -> Floats:
    """Return the gradient of the objective by the cells [M, A, side, side] in 0..1.

    The objective is -score + weight mean((sorted mask - r)^2), with r as many zeros and then ones
    as the area asks for.
    """
    masks = enlarge @ dilated(grid) @ enlarge.T
    _, by_mask = fading.score(masks)
    by_mask = 2 * weight / masks[0, 0].size * (masks - binary_targets(masks)) - by_mask
    return dilated_adjoint(grid, enlarge.T @ by_mask @ enlarge)


def binary_targets(masks: Floats) -> Floats:
    """Return what the ranked area pulls each pixel of masks [M, A, S, S] to.

    1 for the highest values, as many as the area asks for, 0 for the rest. Where several are equal
    at the border of the two, all get the mean: no order of pixels is preferred.
    """
    flat = masks.reshape(*masks.shape[:2], -1)
    targets = np.empty_like(flat)
    for a, area in enumerate(AREAS):
        count = round(area * flat.shape[2])
        place = flat.shape[2] - count
        border = np.partition(flat[:, a], place, axis=1)[:, place, None]  # [M, 1]
        above = flat[:, a] > border + TIE
        equal = np.abs(flat[:, a] - border) <= TIE
        left = count - above.sum(axis=1, keepdims=True)
        targets[:, a] = above + equal * (left / equal.sum(axis=1, keepdims=True))
    return targets.reshape(masks.shape)


def dilated(grid: Floats) -> Floats:
    """Return the smooth maximum of each cell's surroundings.

    sum f exp(f / T) / sum exp(f / T) over f = kernel times neighbour.

    Args:
        grid: [M, A, cells + 2 RADIUS, cells + 2 RADIUS] in 0..1. It goes beyond the border of the
            image, so that no place in the image differs from the others.

    Returns:
        [M, A, cells, cells] in 0..1.
    """
    return _maximum(grid)[0]


def dilated_adjoint(grid: Floats, gradient: Floats) -> Floats:
    """Return the gradient by `grid` from that by its `dilated`, of their shapes."""
    maximum, powers = _maximum(grid)
    result = np.zeros_like(grid)
    for place, kernel, f in _surroundings(grid):
        share = np.exp(f / TEMPERATURE) / powers
        result[place] += kernel * gradient * share * (1 + (f - maximum) / TEMPERATURE)
    return result


def _maximum(grid: Floats) -> tuple[Floats, Floats]:
    """Return the smooth maximum and its denominator."""
    cells = grid.shape[-1] - 2 * RADIUS
    weighted = np.zeros((*grid.shape[:-2], cells, cells))
    powers = np.zeros_like(weighted)
    for _, _, f in _surroundings(grid):
        power = np.exp(f / TEMPERATURE)
        weighted += f * power
        powers += power
    return weighted / powers, powers


def _surroundings(grid: Floats) -> Iterator[tuple[tuple[Any, ...], float, Floats]]:
    """Yield each neighbour's place in the grid, its kernel, and kernel times value.

    The kernel exp(-max(0, d - 1)^2 / 4) of the distance d is flat on top: edges stay sharp.
    """
    cells = grid.shape[-1] - 2 * RADIUS
    for down, right in np.ndindex(2 * RADIUS + 1, 2 * RADIUS + 1):
        distance = np.hypot(down - RADIUS, right - RADIUS)
        if distance <= RADIUS:
            kernel = float(np.exp(-(max(0.0, distance - 1) ** 2) / 4))
            place = (..., slice(down, down + cells), slice(right, right + cells))
            yield place, kernel, kernel * grid[place]
