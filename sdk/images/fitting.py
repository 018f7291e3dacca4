"""Photos on the square input of a model, and maps back on the photo.

A fit joins two boxes of whole pixels: one of the photo and one of the model's input. Both ways
resize one box to the other, so what the map marks is what the model saw, without rounding drift.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from klieg.errors import InputError, OptionError

Fit = Literal["crop", "letterbox", "stretch"]

# What letterboxing pads with: mid-grey, the value that says least to a model.
PADDING = 127.5


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the box in an array `[H, W, ...]`."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a photo of `height` x `width` lies in a model input of `size` x `size`."""

    height: int
    width: int
    size: int
    seen: Box
    """The part of the photo that the model sees."""
    target: Box
    """The part of the model's input that shows it; the rest is padding."""

    def to_photo(self, heatmap: np.ndarray) -> np.ndarray:  # [height, width] float32
        """Undo the fit for a map `[size, size]`: bilinear, and 0 where the model saw nothing."""
        if heatmap.shape != (self.size, self.size):
            raise InputError(
                f"the map has shape {list(heatmap.shape)}, expected {[self.size, self.size]}: "
                "pass a map of the input that this photo was fitted to"
            )
        part = np.asarray(heatmap, dtype=np.float32)[self.target.slices]  # [target h, target w]
        photo = np.zeros((self.height, self.width), np.float32)
        photo[self.seen.slices] = _resize(part, self.seen, cv2.INTER_LINEAR)
        return photo


def fit_image(
    image: np.ndarray,  # [H, W, 3] uint8 or float32 RGB, 0..255
    size: int,
    fit: Fit,
) -> tuple[np.ndarray, Placement]:  # [size, size, 3] float32 RGB, 0..255
    """Fit an image from `read_image` or `as_image` to a square model input.

    Args:
        image: The photo.
        size: Side of the model's input.
        fit: `crop` shows the centre square of the photo; `letterbox` shows all of it, padded
            evenly with mid-grey 127.5; `stretch` shows all of it and ignores the aspect.
    """
    height, width = image.shape[:2]
    seen, target = _boxes(height, width, size, fit)
    # Shrinking averages, enlarging interpolates: each of them on the axes that need it.
    part = image[seen.slices]
    smaller = target._replace(
        height=min(seen.height, target.height), width=min(seen.width, target.width)
    )
    placement = Placement(height=height, width=width, size=size, seen=seen, target=target)
    part = _resize(part, smaller, cv2.INTER_AREA).astype(np.float32)
    if smaller != target:
        part = _resize(part, target, cv2.INTER_CUBIC).clip(0, 255)  # cubic overshoots at edges
    if part.shape[:2] == (size, size):
        return part, placement
    fitted = np.full((size, size, 3), PADDING, np.float32)
    fitted[target.slices] = part
    return fitted, placement


def _boxes(height: int, width: int, size: int, fit: Fit) -> tuple[Box, Box]:
    whole, full = Box(0, 0, height, width), Box(0, 0, size, size)
    match fit:
        case "stretch":
            return whole, full
        case "crop":  # before scaling: a scaled 1 x 1000 photo would be huge
            side = min(height, width)
            return _centred(side, side, whole), full
        case "letterbox":
            longer = max(height, width)
            rows, columns = (max(1, round(side * size / longer)) for side in (height, width))
            return whole, _centred(rows, columns, full)
        case _:
            raise OptionError(f"fit is {fit!r}, expected one of {', '.join(get_args(Fit))}")


def _centred(height: int, width: int, outer: Box) -> Box:
    return Box((outer.height - height) // 2, (outer.width - width) // 2, height, width)


def _resize(array: np.ndarray, box: Box, interpolation: int) -> np.ndarray:
    if array.shape[:2] == (box.height, box.width):
        return array
    return cv2.resize(array, (box.width, box.height), interpolation=interpolation)
