"""Methods that need one pass at one size: Grad-CAM and HiResCAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from klieg.kernels.interpolation import enlarge
from klieg.methods.passes import Array, Passes, RawMaps, chosen_classes


def gradcam(
    passes: Passes, images: Array, targets: NDArray[np.int64], sizes: Sequence[int]
) -> RawMaps:
    """Weigh each channel by its mean gradient: sum_k mean(W_k) A_k, enlarged.

    Selvaraju et al.: Grad-CAM, ICCV 2017, equations 1 and 2. The map is enlarged before relu, so
    that raw maps and maps are related in the same way for every method.
    """
    return _one_pass(
        passes, images, targets, sizes,
        lambda a, w: np.einsum("k,khw->hw", w.mean(axis=(1, 2)), a),
    )  # fmt: skip


def hirescam(
    passes: Passes, images: Array, targets: NDArray[np.int64], sizes: Sequence[int]
) -> RawMaps:
    """Multiply gradient and activation cell by cell: sum_k W_k A_k, enlarged.

    Draelos, Carin: Use HiResCAM instead of Grad-CAM for faithful explanations, 2020, equation 3.
    """
    return _one_pass(passes, images, targets, sizes, lambda a, w: np.asarray((a * w).sum(axis=0)))


def _one_pass(
    passes: Passes,
    images: Array,
    targets: NDArray[np.int64],
    sizes: Sequence[int],
    fuse: Callable[[Array, Array], Array],
) -> RawMaps:
    result = passes(images, targets)
    maps = [
        enlarge(fuse(a, w), sizes[0], sizes[0])
        for a, w in zip(result.activation, result.gradient, strict=True)
    ]
    return RawMaps(
        raw=np.stack(maps),
        logits=result.logits,
        targets=chosen_classes(result.logits, targets),
        scales_used=np.ones((len(images), 1), dtype=np.bool_),
    )
