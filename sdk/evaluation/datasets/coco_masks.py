"""Masks as COCO writes them: polygons, or lengths of runs down the columns (RLE)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError


def decode_mask(segmentation: Any, *, height: int, width: int) -> NDArray[np.bool_] | None:
    """Return the mask of one annotation.

    Args:
        segmentation: The field as JSON has it: a list of polygons x0, y0, x1, y1, ..., or a
            mapping with `size` and `counts` (a list of numbers, or compressed text).
        height: Of the photo.
        width: Of the photo.

    Returns:
        [H, W]; None if the annotation has no segmentation.

    Raises:
        InputError: the segmentation is malformed. What pycocotools takes for granted is checked
            before: it reads four numbers as a box, and leaves pixels that no run covers unset.
    """
    from pycocotools import mask as coco

    if not segmentation:
        return None
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon)
        runs = coco.merge(coco.frPyObjects(segmentation, height, width))
    else:
        runs = _runs(segmentation, height=height, width=width)
    return _decoded(runs)


def _check_polygon(polygon: Any) -> None:
    numbers = polygon if isinstance(polygon, list) else []
    finite = all(isinstance(one, int | float) and math.isfinite(one) for one in numbers)
    if len(numbers) < 6 or len(numbers) % 2 or not finite:
        raise InputError(
            f"got the polygon {polygon!r}, expected at least three points x, y in one list"
        )


def _runs(segmentation: Any, *, height: int, width: int) -> dict[str, Any]:
    """Return checked runs in the compressed form."""
    from pycocotools import mask as coco

    form = segmentation if isinstance(segmentation, dict) else {}
    size, counts = [height, width], form.get("counts")
    if form.get("size") != size:
        raise InputError(
            f"its runs have the size {form.get('size')!r}, expected that of the photo, {size}"
        )
    if isinstance(counts, list):
        whole = all(isinstance(one, int) and one >= 0 for one in counts)
        if not whole or sum(counts) != height * width:
            raise InputError(f"its runs do not add up to the {height} x {width} pixels")
        return dict(coco.frPyObjects({"size": size, "counts": counts}, height, width))
    if not isinstance(counts, str) or not _fits(counts, height * width):
        raise InputError(f"its compressed runs do not give the {height} x {width} pixels")
    return {"size": size, "counts": counts}


def _fits(counts: str, pixels: int) -> bool:
    """Return whether compressed runs cover exactly so many pixels.

    pycocotools refuses runs that are longer than the size that it is given, but not shorter ones.
    """
    try:
        _decoded({"size": [pixels, 1], "counts": counts})
    except ValueError:
        return False
    try:
        _decoded({"size": [pixels - 1, 1], "counts": counts})
    except ValueError:
        return True
    return False


def _decoded(runs: Any) -> NDArray[np.bool_]:
    from pycocotools import mask as coco

    with warnings.catch_warnings():
        # pycocotools 2.0.11 has not followed NumPy 2 here; the result is right.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return np.asarray(coco.decode(runs), dtype=np.bool_)
