"""What makes an array a batch of saliency maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError


def check_maps(maps: NDArray[Any], *, bounded: bool = True) -> None:
    """Raise InputError unless maps are [N, H, W] with pixels, without NaN, and in 0..1 if bounded.

    An N of 0 is fine.
    """
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise InputError(
            f"the maps have shape {list(maps.shape)}, expected [N, H, W]: pass a single map as "
            "map[None]"
        )
    low, high = maps.min(initial=0), maps.max(initial=0)  # both hand NaN on
    if not np.isfinite(low + high):
        expected = "values in 0..1" if bounded else "finite values"
        raise InputError(f"the maps hold NaN or infinity, expected {expected}")
    if bounded and not (low >= 0 and high <= 1):
        raise InputError(
            f"the maps have values outside 0..1, from {low:.3g} to {high:.3g}: use "
            "`Explanation.maps`, not `raw`"
        )
