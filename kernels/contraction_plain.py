"""CAMERAS' fusion as published: enlarge every channel, average, multiply, sum. The tests' truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from klieg.kernels.interpolation import enlarge_plain


def contract_plain(
    activations: Sequence[NDArray[np.float32]],
    gradients: Sequence[NDArray[np.float32]],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Fuse the scales of one image; arguments and result as `contraction.contract`."""
    activation = np.mean([enlarge_plain(a, *size) for a in activations], axis=0)  # [K, H, W]
    gradient = np.mean([enlarge_plain(g, *size) for g in gradients], axis=0)  # [K, H, W]
    return np.asarray((activation * gradient).sum(axis=0), dtype=np.float32)
