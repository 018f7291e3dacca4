"""PxAP: average precision of the pixels of maps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError
from klieg.maps.checks import check_maps


class PixelPrecision:
    """Average precision of pixels over any number of images, with flat memory.

    PxAP of Choe et al. 2020: every pixel of every image is one retrieval, its map value the
    score; see `pixel_precision`.
    """

    def __init__(self, *, step: float = 0.001) -> None:
        """Start without images.

        Args:
            step: Distance of the thresholds 0, step, 2 step, ..., 1: 0.001 as published, 0.01 in
                Phang et al. 2020.

        Raises:
            OptionError: the step is not in 0.00001..1.
        """
        self._step = step
        self._counts = np.zeros((2, len(_thresholds(step))), dtype=np.int64)

    def add(
        self,
        maps: NDArray[np.float32],
        objects: NDArray[np.bool_],
        *,
        ignore: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count the pixels of some images; see `pixel_counts`."""
        self._counts += pixel_counts(maps, objects, ignore=ignore, step=self._step).sum(axis=0)

    @property
    def score(self) -> float:
        """PxAP in 0..100 of all images so far.

        Raises:
            InputError: no pixel so far lies on an object, so that recall means nothing.
        """
        return float(pixel_precision(self._counts))


def pixel_counts(
    maps: NDArray[np.float32],
    objects: NDArray[np.bool_],
    *,
    ignore: NDArray[np.bool_] | None = None,
    step: float = 0.001,
) -> NDArray[np.int64]:
    """Count the pixels of each image by their map value.

    Counts of several images add up; `pixel_precision` makes a score of any sum.

    Args:
        maps: [N, H, W] in 0..1.
        objects: [N, H, W] True on any object.
        ignore: [N, H, W] True where a pixel does not count at all, on an object or not.
        step: See `PixelPrecision`.

    Returns:
        [N, 2, T]: of the background and of the objects, from each of the T thresholds 0, step,
        2 step, ..., 1 to below the next. A value of exactly 1 has the last place for itself.

    Raises:
        InputError: shapes, types or ranges differ from these.
        OptionError: the step is not in 0.00001..1.
    """
    thresholds = _thresholds(step)
    check_maps(maps)
    for name, mask in (("objects", objects), ("ignore", ignore)):
        if mask is not None and (mask.dtype != np.bool_ or mask.shape != maps.shape):
            raise InputError(
                f"{name} is {mask.dtype} of shape {list(mask.shape)}, expected bool of the maps' "
                f"shape {list(maps.shape)}"
            )
    number = len(thresholds)
    counts = np.empty((len(maps), 2, number), dtype=np.int64)
    for image, one in enumerate(maps):
        places = _places(one, step)  # [H, W]
        places += number * objects[image]
        kept = places.ravel() if ignore is None else places[~ignore[image]]
        counts[image] = np.bincount(kept, minlength=2 * number).reshape(2, number)
    return counts


def pixel_precision(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return PxAP of counted pixels.

    With precision P and recall R of the pixels at or above each threshold t, from the highest
    down, PxAP = 100 * sum over t of P_t (R_t - R_{t-1}). A perfect map gives 100, a constant one
    the percentage of pixels that lie on objects.

    Args:
        counts: [..., 2, T] as `pixel_counts` returns them, or sums of them.

    Returns:
        [...] in 0..100.

    Raises:
        InputError: the shape differs, or somewhere no pixel lies on an object, so that recall
            means nothing.
    """
    if counts.ndim < 2 or counts.shape[-2] != 2:
        raise InputError(f"counts have shape {list(counts.shape)}, expected [..., 2, T]")
    totals = counts[..., ::-1].cumsum(axis=-1)  # [..., 2, T] from the highest down
    background, objects = totals[..., 0, :], totals[..., 1, :]
    if not (objects[..., -1] > 0).all():
        raise InputError("no pixel lies on an object, expected at least one: add such images")
    precision = objects / np.maximum(background + objects, 1)
    gained = np.diff(objects, prepend=0, axis=-1) / objects[..., -1:]
    return np.asarray(100 * (precision * gained).sum(axis=-1))


def _places(one: NDArray[Any], step: float) -> NDArray[np.int64]:
    """Return for each value in 0..1 the number of the highest threshold not above it."""
    scale = _scale(step)
    if scale is not None and one.dtype == np.float32:
        return (one * scale).astype(np.int64)
    places = np.searchsorted(_thresholds(step), one.astype(np.float64), side="right")
    return places.astype(np.int64) - 1


@lru_cache(maxsize=8)
def _thresholds(step: float) -> NDArray[np.float64]:
    """Return [T] ascending. A map value of exactly 1 has a threshold of its own."""
    if not 1e-5 <= step <= 1:
        raise OptionError(f"step is {step!r}, expected a number in 0.00001..1")
    return np.append(np.arange(0, 1, step).clip(max=1), 1.0)


@lru_cache(maxsize=8)
def _scale(step: float) -> np.float64 | None:
    """Return 1 / step if the whole part of value / step is every float32 value's place, else None.

    Multiplication and rounding down keep the order of values, so that it is enough to try the two
    neighbours of every threshold among the float32 numbers. They fail for a step that does not
    divide 1, and for the very smallest.
    """
    thresholds = _thresholds(step)
    scale = np.float64(1 / step)
    nearest = thresholds.astype(np.float32)
    above = np.where(nearest < thresholds, np.nextafter(nearest, np.float32(2)), nearest)
    below = np.nextafter(above[1:], np.float32(0))
    places = np.arange(len(thresholds))
    found = (np.concatenate([above, below]) * scale).astype(np.int64)
    return scale if np.array_equal(found, np.concatenate([places, places[:-1]])) else None
