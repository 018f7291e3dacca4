"""Raw maps made maps by the runtime's own functions: the tests' truth for `normalize`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from klieg.kernels.cuda.normalize import State
from klieg.kernels.normalisation import ROUNDING, as_masks, normalise


def normalize_plain(
    raw: NDArray[np.float32], *, masks: bool
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Make maps of raw maps [N, H, W]; arguments and results as `normalize.normalize`."""
    with np.errstate(invalid="ignore"):  # NaN and infinity are what is asked about
        maps, flat = as_masks(raw.clip(0, 1)) if masks else normalise(raw)
        low, high = raw.min(axis=(1, 2)), raw.max(axis=(1, 2))
    states = np.where(flat, State.FLAT, State.FINE)
    if masks:
        states[(low < -ROUNDING) | (high > 1 + ROUNDING)] = State.OUT_OF_RANGE
    states[np.isnan(low)] = State.NOT_A_NUMBER
    maps[states >= State.NOT_A_NUMBER] = np.nan
    return maps, states.astype(np.int32)
