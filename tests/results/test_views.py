"""What is shown of a photo through a region."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.results.lettering import PAPER
from klieg.results.views import GREY, LONGEST_SIDE, contact_sheet, views

NO_BOX = np.zeros(4, np.int64)


def ramp(height: int, width: int) -> np.ndarray:
    """A photo that changes slowly."""
    rows, columns = np.indices((height, width))
    return np.stack([20 + rows, 20 + columns, np.full_like(rows, 200)], axis=2).astype(np.uint8)


def square(height: int, width: int) -> np.ndarray:
    region = np.zeros((height, width), np.bool_)
    region[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    return region


def test_each_pixel_is_shown_where_it_belongs() -> None:
    photo, region = ramp(60, 90), square(60, 90)
    before = photo.copy()
    split = views(photo, region)
    for shown, hidden, kept in (
        (split.masked_in, GREY, region),
        (split.masked_out, GREY, ~region),
    ):
        np.testing.assert_array_equal(shown[kept], photo[kept])
        assert (shown[~kept] == hidden).all()
    np.testing.assert_array_equal(split.inpainted[~region], photo[~region])
    np.testing.assert_array_equal(photo, before)


def test_inpainting_continues_the_border() -> None:
    photo, region = ramp(60, 90), square(60, 90)
    holed = photo.copy()
    holed[region] = 255  # must not leak
    filled = views(holed, region).inpainted
    assert np.abs(filled.astype(int) - photo)[region].mean() < 8
    np.testing.assert_array_equal(filled, views(photo, region).inpainted)


def test_empty_and_full_regions() -> None:
    photo = ramp(20, 30)
    nothing = views(photo, np.zeros((20, 30), np.bool_))
    assert (nothing.masked_in == GREY).all()
    np.testing.assert_array_equal(nothing.masked_out, photo)
    np.testing.assert_array_equal(nothing.inpainted, photo)
    everything = views(photo, np.ones((20, 30), np.bool_))
    np.testing.assert_array_equal(everything.masked_in, photo)
    assert (everything.masked_out == GREY).all()
    assert (everything.inpainted == GREY).all()


@pytest.mark.parametrize(
    ("height", "width", "columns"),
    [(1, 1, 2), (3, 900, 1), (900, 3, 4), (60, 60, 2), (1500, 2100, 2)],
)
def test_sheets_of_any_size(height: int, width: int, columns: int) -> None:
    photo = np.full((height, width, 3), 30, np.uint8)
    region = square(height, width)
    box = np.array([width // 3, height // 3, width, height])
    sheet = contact_sheet(photo, region, box, title="cat  90%", subtitle="CAMERAS")
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] <= columns * (LONGEST_SIDE + 8)
    drawn = (sheet[0] != PAPER).any(axis=1)  # [W] the pictures of the upper row
    if width > 3:  # narrower ones have paper beside them
        assert np.count_nonzero(np.diff(drawn.astype(int)) == -1) + drawn[-1] == columns


def test_box_is_drawn_on_the_photo_only() -> None:
    photo, region = np.full((400, 400, 3), 30, np.uint8), square(400, 400)
    with_box = contact_sheet(photo, region, np.array([100, 50, 300, 250]), title="x")
    without = contact_sheet(photo, region, NO_BOX, title="x")
    changed = (with_box != without).any(axis=2)[:400]  # without the captions
    rows, columns = np.nonzero(changed)
    assert rows.min() in range(44, 51)
    assert columns.min() in range(94, 101)
    assert rows.max() in range(249, 256)
    assert columns.max() in range(299, 306)
    assert not changed[60:240, 110:290].any()


def test_sizes_must_agree() -> None:
    for draw in (
        lambda: views(ramp(4, 5), square(5, 4)),
        lambda: contact_sheet(ramp(4, 5), square(5, 4), NO_BOX, title="x"),
    ):
        with pytest.raises(InputError, match="same height"):
            draw()
