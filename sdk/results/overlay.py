"""Pictures of saliency maps. Values are drawn as they are: nothing here rescales a map."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError
from klieg.results.lettering import (
    FAINT,
    Picture,
    headline,
    paper,
    smaller,
    text_size,
    text_width,
    write,
)

SHORTEST_WIDTH: Final = 320
"""Narrower photos are enlarged, so that the legend stays readable."""

LONGEST_SIDE: Final = 1600
"""Larger photos are shrunk: an overlay is for looking at."""


def overlay(
    photo: Picture,
    saliency: NDArray[np.float32],
    *,
    title: str,
    subtitle: str = "",
    longest_side: int = LONGEST_SIDE,
) -> Picture:
    """Lay a map over its photo like a spotlight, with a legend below.

    Args:
        photo: [H, W, 3] uint8 RGB.
        saliency: [H, W] float32 in 0..1.
        title: First line of the legend, usually class and probability.
        subtitle: Second line.
        longest_side: Largest width and height of the photo in the picture.

    Returns:
        [h, w, 3] uint8 RGB; w is at least 320 where the longest side allows.

    Raises:
        InputError: the sizes differ, or the map is not in 0..1.
    """
    if photo.shape[:2] != saliency.shape:
        raise InputError(
            f"photo is {photo.shape[:2]} and map {saliency.shape}, expected the same height and "
            "width: use Explanation.on_image for the photo's own grid"
        )
    _check_range(saliency)
    photo = fitted_photo(photo, longest_side)
    lit = _spotlight(photo, resized_map(saliency, photo).clip(0, 1))
    return np.concatenate([lit, _legend(lit.shape[1], title, subtitle)])


def colour_map(saliency: NDArray[np.float32]) -> Picture:
    """Colour a map [H, W] in 0..1 with a perceptually uniform scale, black over red to yellow.

    Raises:
        InputError: the map is not in 0..1.
    """
    _check_range(saliency)
    levels = np.asarray(np.rint(saliency * 255), dtype=np.uint8)
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _spotlight(photo: Picture, saliency: NDArray[np.float32]) -> Picture:
    """Dim and grey what is not salient, tint what is."""
    grey = cv2.cvtColor(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    s = saliency[..., None]
    base = (photo * s + grey * (1 - s)) * (0.45 + 0.55 * s)
    tint = 0.55 * np.sqrt(s)
    lit = base * (1 - tint) + colour_map(saliency) * tint
    return np.asarray(np.rint(lit), dtype=np.uint8)


def fitted_photo(photo: Picture, longest_side: int) -> Picture:
    """Return the photo [H, W, 3] in the size for a picture: narrow enlarged, large shrunk."""
    height, width = photo.shape[:2]
    factor = min(max(1.0, SHORTEST_WIDTH / width), longest_side / max(height, width))
    filter_ = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return _resized(photo, max(1, round(width * factor)), max(1, round(height * factor)), filter_)


def resized_map(saliency: NDArray[np.float32], photo: Picture) -> NDArray[np.float32]:
    """Return a map [H, W] in the size of a photo [h, w, 3]."""
    height, width = photo.shape[:2]
    filter_ = cv2.INTER_AREA if width < saliency.shape[1] else cv2.INTER_LINEAR
    return _resized(saliency, width, height, filter_)


def _legend(width: int, title: str, subtitle: str) -> Picture:
    return np.concatenate([headline(width, title, subtitle), _colour_bar(width)])


def _colour_bar(width: int) -> Picture:
    """Draw the scale from 0 to 1, as far as there is room."""
    size = text_size(width)
    small, margin = smaller(size), size // 2
    top, height = margin // 2, max(6, size // 2)
    picture = paper(top + height + small, width)
    label = text_width("0", small) + margin // 2
    left, right = margin + label, width - margin - label
    if right - left > 1:
        ramp = np.linspace(0, 1, right - left, dtype=np.float32)
        picture[top : top + height, left:right] = colour_map(ramp[None])
        baseline = top + height // 2 + int(0.38 * small)
        write(picture, "0", margin, baseline, FAINT, small)
        write(picture, "1", width - margin - text_width("1", small), baseline, FAINT, small)
    return picture


def _resized(array: NDArray[Any], width: int, height: int, filter_: int) -> NDArray[Any]:
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(cv2.resize(array, (width, height), interpolation=filter_))


def _check_range(saliency: NDArray[np.float32]) -> None:
    low, high = float(saliency.min()), float(saliency.max())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise InputError(f"the map has values in {low:.3g}..{high:.3g}, expected 0..1")
