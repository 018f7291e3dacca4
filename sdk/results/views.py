"""A photo seen through the region that a map marks: only it, all but it, and painted over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError
from klieg.results.lettering import Picture, captioned, headline, sheet
from klieg.results.overlay import fitted_photo, resized_map

GREY: Final = 89
"""What stands in for hidden pixels: 0.35 of the range, about as bright as photos are."""

RADIUS: Final = 3
"""Pixels round a hole that its inpainting looks at."""

LONGEST_SIDE: Final = 800
"""Larger photos are shrunk in a sheet, which holds four."""

LINE, SHADE = (255, 196, 0), (20, 20, 20)


@dataclass(frozen=True)
class Views:
    """One photo of a region three times, [H, W, 3] uint8 RGB each."""

    masked_in: Picture
    """The region alone, grey around it."""
    masked_out: Picture
    """All but the region, which is grey."""
    inpainted: Picture
    """All but the region, which is filled from its border (Telea 2004)."""


def views(photo: Picture, region: NDArray[np.bool_]) -> Views:
    """Split a photo at a region.

    Args:
        photo: [H, W, 3] uint8 RGB.
        region: [H, W], True where the photo is salient.

    Raises:
        InputError: the sizes differ.
    """
    _check_sizes(photo, region)
    grey = np.full_like(photo, GREY)
    inside = region[..., None]
    if region.all():  # no border to start from
        return Views(photo.copy(), grey, grey.copy())
    hole = region.astype(np.uint8)
    return Views(
        masked_in=np.where(inside, photo, grey),
        masked_out=np.where(inside, grey, photo),
        inpainted=np.asarray(cv2.inpaint(photo, hole, RADIUS, cv2.INPAINT_TELEA), dtype=np.uint8),
    )


def contact_sheet(
    photo: Picture,
    region: NDArray[np.bool_],
    box: NDArray[np.int64],
    *,
    title: str,
    subtitle: str = "",
) -> Picture:
    """Show a photo with its box, and its three views, in one picture.

    The views are made at the size in which they are shown, at most 800 pixels on the long side.

    Args:
        photo: [H, W, 3] uint8 RGB.
        region: [H, W], True where the photo is salient.
        box: [4] xmin, ymin, xmax, ymax in pixels of the photo, ends exclusive; all 0 for none.
        title: First line below the pictures.
        subtitle: Second line.

    Raises:
        InputError: the sizes differ.
    """
    _check_sizes(photo, region)
    shown = fitted_photo(photo, LONGEST_SIDE)
    split = views(shown, resized_map(region.astype(np.float32), shown) > 0.5)
    boxed = _with_box(shown, box * (shown.shape[1] / photo.shape[1])) if box.any() else shown
    tiles = [
        captioned(boxed, "photo and box" if box.any() else "photo, no box"),
        captioned(split.masked_in, "salient part alone"),
        captioned(split.masked_out, "salient part removed"),
        captioned(split.inpainted, "salient part inpainted"),
    ]
    height, width = tiles[0].shape[:2]
    # As close to a square as it gets.
    columns = min((1, 2, 4), key=lambda n: abs(math.log(n * width / (4 / n * height))))
    picture = sheet(tiles, columns=columns)
    return np.concatenate([picture, headline(picture.shape[1], title, subtitle)])


def _with_box(photo: Picture, box: NDArray[np.float64]) -> Picture:
    """Draw a box in a bright line with a dark one round it, to be seen on any photo."""
    left, top, right, bottom = (round(float(value)) for value in box)
    thickness = max(2, round(max(photo.shape) / 250))
    picture = photo.copy()
    for colour, width in ((SHADE, 3 * thickness), (LINE, thickness)):
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, width)
    return picture


def _check_sizes(photo: Picture, region: NDArray[np.bool_]) -> None:
    if photo.shape[:2] != region.shape:
        raise InputError(
            f"photo is {photo.shape[:2]} and region {region.shape}, expected the same height and "
            "width: use Explanation.binary_on_image for the photo's own grid"
        )
