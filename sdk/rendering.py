"""Pictures of saliency maps. Values are drawn as they are: nothing here rescales a map."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError

Picture = NDArray[np.uint8]  # [H, W, 3] RGB

SHORTEST_WIDTH: Final = 320
"""Narrower photos are enlarged, so that the legend stays readable."""

LONGEST_SIDE: Final = 1600
"""Larger photos are shrunk: an overlay is for looking at."""

PAPER, INK, FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)


def overlay(
    photo: Picture, saliency: NDArray[np.float32], *, title: str, subtitle: str = ""
) -> Picture:
    """Lay a map over its photo like a spotlight, with a legend below.

    Args:
        photo: [H, W, 3] uint8 RGB.
        saliency: [H, W] float32 in 0..1.
        title: First line of the legend, usually class and probability.
        subtitle: Second line.

    Returns:
        [h, w, 3] uint8 RGB; w is at least 320 and the photo's part at most 1600 on its long side.

    Raises:
        InputError: the sizes differ, or the map is not in 0..1.
    """
    if photo.shape[:2] != saliency.shape:
        raise InputError(
            f"photo is {photo.shape[:2]} and map {saliency.shape}, expected the same height and "
            "width: use Explanation.on_image for the photo's own grid"
        )
    _check_range(saliency)
    width, height = _picture_size(photo)
    shrinks = width < photo.shape[1]
    photo = _resized(photo, width, height, cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    saliency = _resized(saliency, width, height, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    lit = _spotlight(photo, saliency.clip(0, 1))
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


def _legend(width: int, title: str, subtitle: str) -> Picture:
    size = int(np.clip(width / 22, 15, 30))
    small = int(size * 0.72)
    margin = size // 2
    bar_top = margin + int(1.35 * size) + (int(1.4 * small) if subtitle else 0)
    bar_height = max(6, size // 2)
    paper = np.full((bar_top + bar_height + margin + small, width, 3), PAPER, dtype=np.uint8)
    room = width - 2 * margin
    _write(paper, _shortened(title, room, size), margin, margin + size, INK, size)
    if subtitle:
        baseline = margin + int(1.35 * size) + small
        _write(paper, _shortened(subtitle, room, small), margin, baseline, FAINT, small)
        bar_top = baseline + margin
    label = _text_width("0", small) + margin // 2
    left, right = margin + label, width - margin - label
    if right - left > 1:
        ramp = np.linspace(0, 1, right - left, dtype=np.float32)
        paper[bar_top : bar_top + bar_height, left:right] = colour_map(ramp[None])
        baseline = bar_top + bar_height // 2 + int(0.38 * small)
        _write(paper, "0", margin, baseline, FAINT, small)
        _write(paper, "1", width - margin - _text_width("1", small), baseline, FAINT, small)
    return paper


def _picture_size(photo: Picture) -> tuple[int, int]:
    """Return width and height of the photo in the picture."""
    height, width = photo.shape[:2]
    factor = min(max(1.0, SHORTEST_WIDTH / width), LONGEST_SIDE / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _resized(array: NDArray[Any], width: int, height: int, filter_: int) -> NDArray[Any]:
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(cv2.resize(array, (width, height), interpolation=filter_))


def _check_range(saliency: NDArray[np.float32]) -> None:
    low, high = float(saliency.min()), float(saliency.max())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise InputError(f"the map has values in {low:.3g}..{high:.3g}, expected 0..1")


def _shortened(text: str, room: int, size: int) -> str:
    if _text_width(text, size) <= room:
        return text
    while text and _text_width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _text_width(text: str, size: int) -> int:
    _, _, width, _ = cv2.getTextSize((1, 1), text, (0, 0), _font(), size)
    return int(width)


def _write(
    picture: Picture, text: str, left: int, baseline: int, colour: tuple[int, ...], size: int
) -> None:
    cv2.putText(picture, text, (left, baseline), colour, _font(), size)


def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")
