"""From a saliency map to the region that it marks: thresholds, binary maps, boxes."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError
from klieg.maps.checks import check_maps

Rule = Literal["mean", "quantile"]
"""Where a map is cut: at its mean, or so that the share kept is about its mean."""


def binarise(maps: NDArray[np.float32], *, rule: Rule = "mean") -> NDArray[np.bool_]:
    """Return which pixels of each map are salient.

    Args:
        maps: [B, H, W] in 0..1.
        rule: See `thresholds`.

    Returns:
        [B, H, W], True strictly above the map's own threshold: nowhere in a constant map under
        the rule "mean".

    Raises:
        InputError: the maps have another shape or range.
        OptionError: there is no such rule.
    """
    return np.asarray(maps > thresholds(maps, rule=rule)[:, None, None])


def thresholds(maps: NDArray[np.float32], *, rule: Rule = "mean") -> NDArray[np.float64]:
    """Return the value above which a pixel of each map is salient.

    Args:
        maps: [B, H, W] in 0..1.
        rule: "mean" (Phang et al. 2020) is the map's own mean. "quantile" (Zolna et al. 2020) is
            the k-th smallest of the N values, k = 1 + int((N - 1)(1 - mean) + 0.5), but within
            1e-6..1 - 1e-6: the share of salient pixels is then about the mean.

    Returns:
        [B].

    Raises:
        InputError: the maps have another shape or range.
        OptionError: there is no such rule.
    """
    check_maps(maps)
    values = maps.reshape(len(maps), maps.shape[1] * maps.shape[2])
    # In double precision the mean of a constant map is exact.
    means: NDArray[np.float64] = values.mean(axis=1, dtype=np.float64)
    match rule:
        case "mean":
            return means
        case "quantile":
            ranks = ((values.shape[1] - 1) * (1 - means) + 0.5).astype(np.int64)  # [B], from 0
            cuts = np.take_along_axis(np.sort(values, axis=1), ranks[:, None], axis=1)[:, 0]
            return np.asarray(cuts.astype(np.float64).clip(1e-6, 1 - 1e-6))
        case _:
            raise OptionError(f"rule is {rule!r}, expected one of {', '.join(get_args(Rule))}")


def bounding_boxes(binary: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the tight box round the largest component of each binary map.

    Pixels belong together if they share a side. Of components of equal size the one whose first
    pixel, row by row, comes first counts.

    Args:
        binary: [B, H, W].

    Returns:
        [B, 4]: xmin, ymin, xmax, ymax in pixels, the ends exclusive, so that
        `map[ymin:ymax, xmin:xmax]` is the box; all 0 where no pixel is True.

    Raises:
        InputError: `binary` has another shape or type.
    """
    if binary.ndim != 3 or binary.dtype != np.bool_:
        raise InputError(
            f"got {binary.dtype} of shape {list(binary.shape)}, expected bool [B, H, W]: "
            "turn maps into binary ones with `binarise`"
        )
    boxes = np.zeros((len(binary), 4), dtype=np.int64)
    for box, one in zip(boxes, binary, strict=True):
        _, _, statistics, _ = cv2.connectedComponentsWithStats(one.astype(np.uint8), connectivity=4)
        components = statistics[1:]  # 0 is the background
        if len(components):
            left, top, width, height, _ = components[components[:, cv2.CC_STAT_AREA].argmax()]
            box[:] = left, top, left + width, top + height
    return boxes
