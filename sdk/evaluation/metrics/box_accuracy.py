"""MaxBoxAcc V2: does a box of the map, cut at its best threshold, lie on an object?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.checks import check_number, checked_boxes
from klieg.evaluation.metrics.localisation import intersection_over_union
from klieg.maps.checks import check_maps

OVERLAPS: Final = (0.3, 0.5, 0.7)
"""The intersections over union that a hit reaches."""


def box_hits(
    maps: NDArray[np.float32], objects: Sequence[NDArray[Any]], *, step: float = 0.01
) -> NDArray[np.bool_]:
    """Return at which thresholds a box of each map hits an object.

    Choe et al. 2020, version 2: each map becomes uint8(255 * map) and is cut above int(t * its
    maximum) for the thresholds t = 0, step, ..., below 1. The tight box round every connected
    component (8 neighbours) counts, and a hit is an IoU of at least 0.3, 0.5 or 0.7 with any
    object. The authors' code differs in three details that are not kept: holes count as
    components, a box at the right or lower border loses a pixel, and the IoU is that of boxes one
    pixel larger.

    Args:
        maps: [N, H, W] in 0..1.
        objects: N arrays [n, 4] xmin, ymin, xmax, ymax in pixels, ends exclusive. Without any
            there are no hits.
        step: Distance of the thresholds.

    Returns:
        [N, 3, T].

    Raises:
        InputError: numbers or shapes differ, a value is not in 0..1, or a box ends before it
            begins.
        OptionError: the step is not in 0.001..1.
    """
    if not 1e-3 <= step <= 1:
        raise OptionError(f"step is {step!r}, expected a number in 0.001..1")
    check_maps(maps)
    check_number(len(maps), objects=objects)
    thresholds = np.arange(0, 1, step)
    levels = (255 * maps).astype(np.uint8)
    hits = np.zeros((len(maps), len(OVERLAPS), len(thresholds)), dtype=np.bool_)
    for hit, one, boxes in zip(hits, levels, objects, strict=True):
        marked = checked_boxes(np.asarray(boxes))
        if len(marked):
            hit[:] = _best_overlaps(one, marked, thresholds) >= np.array(OVERLAPS)[:, None]
    return hits


def max_box_accuracy(hits_sum: NDArray[Any], count: ArrayLike) -> NDArray[np.float64]:
    """Return MaxBoxAcc V2: the share of images with a hit at the best threshold of each overlap.

    Args:
        hits_sum: [..., 3, T] sums over images of what `box_hits` returns.
        count: [...] number of images.

    Returns:
        [...] in 0..100, the mean over the three overlaps.

    Raises:
        InputError: the shape differs, or a count is not above 0.
    """
    if hits_sum.ndim < 2 or hits_sum.shape[-2] != len(OVERLAPS):
        raise InputError(f"hits_sum has shape {list(hits_sum.shape)}, expected [..., 3, T]")
    counts = np.asarray(count)
    if not (counts > 0).all():
        raise InputError("count is not above 0: the accuracy over no image is undefined")
    return np.asarray(100 * hits_sum.max(axis=-1).mean(axis=-1) / counts)


def _best_overlaps(
    one: NDArray[np.uint8], objects: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return [T] the largest IoU of any component with any object, 0 where it cannot be a hit.

    Args:
        one: [H, W] map.
        objects: [n, 4], n at least 1.
        thresholds: [T] in 0..1 ascending, shares of the map's maximum.
    """
    cuts = (thresholds * int(one.max())).astype(np.int64)
    # Cuts between the same two levels leave the same pixels: measure one of them.
    present = np.unique(one)
    places = np.searchsorted(present, cuts, side="right")
    _, first, which = np.unique(places, return_index=True, return_inverse=True)
    overlaps = np.zeros(len(first))
    region = np.array([0, 0, one.shape[1], one.shape[0]])
    for number, cut in enumerate(cuts[first]):
        boxes = _component_boxes(one, cut, region)
        # Components of higher cuts lie inside these: look on only where they still can hit.
        hopeful = boxes[_covered(boxes, objects) > OVERLAPS[0] - 1e-9]  # 1e-9: rounding
        if not len(hopeful):
            break
        overlaps[number] = intersection_over_union(hopeful, objects).max()
        region = np.concatenate([hopeful[:, :2].min(axis=0), hopeful[:, 2:].max(axis=0)])
    return overlaps[which]


def _component_boxes(
    one: NDArray[np.uint8], cut: int, region: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the boxes [k, 4] of what is above the cut inside a region [4] of a map."""
    left, top, right, bottom = region
    above = (one[top:bottom, left:right] > cut).astype(np.uint8)
    # Of OpenCV's algorithms the fastest here.
    _, _, statistics, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        above, 8, cv2.CV_32S, cv2.CCL_GRANA
    )
    boxes = statistics[1:, :4].astype(np.int64)  # left, top, width, height; 0 is the background
    boxes[:, :2] += (left, top)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _covered(boxes: NDArray[np.int64], objects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [k] the largest share of an object [n, 4] that each box [k, 4] covers.

    No box inside such a box has a larger IoU with that object.
    """
    one = boxes[:, None]
    sides = np.minimum(one[..., 2:], objects[:, 2:]) - np.maximum(one[..., :2], objects[:, :2])
    areas = (objects[:, 2:] - objects[:, :2]).prod(axis=-1)
    shares = sides.clip(min=0).prod(axis=-1) / np.where(areas > 0, areas, 1)  # [k, n]
    return np.asarray(shares.max(axis=-1))
