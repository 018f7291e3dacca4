"""Text and paper of pictures: the one style of everything that klieg draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.storage.atomic import atomic_path

Picture = NDArray[np.uint8]  # [H, W, 3] RGB

PAPER, INK, FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)

GAP: Final = 8
"""Pixels of paper between the tiles of a sheet."""

NARROWEST, SMALLEST = 180, 13
"""Pixels that a caption needs, and the size of its text."""


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture [H, W, 3] RGB; the file appears complete or not at all."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def paper(height: int, width: int) -> Picture:
    """Return an empty picture [height, width, 3]."""
    return np.full((height, width, 3), PAPER, dtype=np.uint8)


def sheet(tiles: Sequence[Picture], *, columns: int) -> Picture:
    """Lay tiles of one size out row by row.

    Args:
        tiles: Each [h, w, 3].
        columns: Tiles in a row.
    """
    height, width = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    picture = paper(rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for number, tile in enumerate(tiles):
        top, left = (height + GAP) * (number // columns), (width + GAP) * (number % columns)
        picture[top : top + height, left : left + width] = tile
    return picture


def headline(width: int, title: str, subtitle: str = "") -> Picture:
    """Write a title, and below it a fainter and smaller line, on paper of a width."""
    size = text_size(width)
    small, margin = smaller(size), size // 2
    height = margin + int(1.35 * size) + (int(1.4 * small) if subtitle else 0)
    picture = paper(height, width)
    room = width - 2 * margin
    write(picture, shortened(title, room, size), margin, margin + size, INK, size)
    if subtitle:
        baseline = margin + int(1.35 * size) + small
        write(picture, shortened(subtitle, room, small), margin, baseline, FAINT, small)
    return picture


def captioned(picture: Picture, text: str) -> Picture:
    """Put a line of small text below a picture, which gets paper beside it if it is narrow."""
    height, width = picture.shape[:2]
    size = max(SMALLEST, smaller(text_size(width)))
    tile = paper(height + 2 * size, max(width, NARROWEST))
    left, margin = (tile.shape[1] - width) // 2, size // 4
    tile[:height, left : left + width] = picture
    room = tile.shape[1] - 2 * margin
    write(tile, shortened(text, room, size), margin, height + int(1.3 * size), INK, size)
    return tile


def text_size(width: int) -> int:
    """Return the size of a title on a picture of a width."""
    return int(np.clip(width / 22, 15, 30))


def smaller(size: int) -> int:
    """Return the size of the text below a title."""
    return int(size * 0.72)


def text_width(text: str, size: int) -> int:
    """Return the width of a text in pixels."""
    _, _, width, _ = cv2.getTextSize((1, 1), text, (0, 0), _font(), size)
    return int(width)


def shortened(text: str, room: int, size: int) -> str:
    """Return a text, cut off with an ellipsis where it is wider than the room."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"


def write(
    picture: Picture, text: str, left: int, baseline: int, colour: tuple[int, ...], size: int
) -> None:
    """Write a text into a picture."""
    cv2.putText(picture, text, (left, baseline), colour, _font(), size)


def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")
