"""PxAP: do the high values of maps lie on the objects?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError


class PixelPrecision:
    """Average precision of pixels over any number of images, with flat memory.

    PxAP of Choe et al. 2020: every pixel of every image is one retrieval, its map value the
    score. With precision P and recall R of the pixels at or above each threshold t, from the
    highest down, PxAP = 100 * sum over t of P_t (R_t - R_{t-1}). A perfect map gives 100,
    a constant one the percentage of pixels that lie on objects.
    """

    def __init__(self, *, step: float = 0.001) -> None:
        """Start without images.

        Args:
            step: Distance of the thresholds 0, step, 2 step, ..., 1: 0.001 as published, 0.01 in
                Phang et al. 2020.

        Raises:
            OptionError: the step is not in 0.00001..1.
        """
        if not 1e-5 <= step <= 1:
            raise OptionError(f"step is {step!r}, expected a number in 0.00001..1")
        # [T] ascending. A map value of exactly 1 has a threshold of its own.
        self._thresholds = np.append(np.arange(0, 1, step).clip(max=1), 1.0)
        self._counts = np.zeros((2, len(self._thresholds)), dtype=np.int64)  # background, objects

    def add(
        self,
        maps: NDArray[np.float32],
        objects: NDArray[np.bool_],
        *,
        ignore: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count the pixels of some images.

        Args:
            maps: [B, H, W] in 0..1.
            objects: [B, H, W] True on any object.
            ignore: [B, H, W] True where a pixel does not count at all, on an object or not.

        Raises:
            InputError: shapes, types or ranges differ from these.
        """
        _check_masks(maps, objects=objects, ignore=ignore)
        if not ((maps >= 0) & (maps <= 1)).all():  # also refuses NaN
            raise InputError("the maps have values outside 0..1: use `Explanation.maps`")
        counted = np.ones(maps.shape, dtype=np.bool_) if ignore is None else ~ignore
        for row, chosen in zip(self._counts, (counted & ~objects, counted & objects), strict=True):
            bins = np.searchsorted(self._thresholds, maps[chosen].astype(np.float64), side="right")
            row += np.bincount(bins - 1, minlength=len(self._thresholds))

    @property
    def score(self) -> float:
        """PxAP in 0..100 of all images so far.

        Raises:
            InputError: no pixel so far lies on an object, so that recall means nothing.
        """
        background, objects = self._counts[:, ::-1].cumsum(axis=1)  # [T] from the highest down
        if objects[-1] == 0:
            raise InputError("no pixel lies on an object, expected at least one: add such images")
        precision = objects / np.maximum(background + objects, 1)
        gained = np.diff(objects, prepend=0) / objects[-1]
        return float(100 * (precision * gained).sum())


def _check_masks(maps: NDArray[Any], **masks: NDArray[Any] | None) -> None:
    if maps.ndim != 3:
        raise InputError(
            f"the maps have shape {list(maps.shape)}, expected [B, H, W]: pass a single map as "
            "map[None]"
        )
    for name, mask in masks.items():
        if mask is not None and (mask.dtype != np.bool_ or mask.shape != maps.shape):
            raise InputError(
                f"{name} is {mask.dtype} of shape {list(mask.shape)}, expected bool of the maps' "
                f"shape {list(maps.shape)}"
            )
