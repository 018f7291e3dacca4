from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.results.lettering import PAPER
from klieg.results.overlay import LONGEST_SIDE, SHORTEST_WIDTH, colour_map, overlay


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blob(height: int, width: int, peak: float = 1.0) -> np.ndarray:
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (peak * np.exp(-4 * (rows**2 + columns**2))).astype(np.float32)


def test_colour_map_grows_brighter_everywhere() -> None:
    """Equal steps of a perceptually uniform map are steps of lightness, without a turn back."""
    ramp = colour_map(np.linspace(0, 1, 256, dtype=np.float32)[None])[0].astype(float)
    lightness = ramp @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -0.8).all()  # rounding of 8-bit colours
    assert lightness[0] < 5
    assert lightness[-1] > 240


def test_values_are_drawn_as_they_are() -> None:
    full, half = (overlay(photo(200, 400), blob(200, 400, peak), title="x") for peak in (1, 0.5))
    assert np.abs(full.astype(int) - half).max() > 30
    inside = colour_map(np.full((2, 2), 0.5, np.float32))
    np.testing.assert_array_equal(inside, colour_map(np.full((9, 9), 0.5, np.float32))[:2, :2])


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_values_outside_the_range_are_refused(bad: float) -> None:
    saliency = np.full((4, 4), 0.5, np.float32)
    saliency[1, 2] = bad
    with pytest.raises(InputError, match=r"0\.\.1"):
        overlay(photo(4, 4), saliency, title="x")
    with pytest.raises(InputError, match=r"0\.\.1"):
        colour_map(saliency)


def test_sizes_must_agree() -> None:
    with pytest.raises(InputError, match="same height"):
        overlay(photo(4, 5), blob(5, 4), title="x")


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 900), (900, 3), (60, 60), (333, 501), (2500, 1700)]
)
def test_any_size_has_a_readable_legend(height: int, width: int) -> None:
    image, saliency = photo(height, width), blob(height, width).clip(0, 1)
    copies = image.copy(), saliency.copy()
    picture = overlay(image, saliency, title="tabby cat  93.1%", subtitle="CAMERAS, 8 of 8 scales")
    assert picture.dtype == np.uint8
    assert picture.shape[1] <= LONGEST_SIDE
    if height < 4 * width:
        assert picture.shape[1] >= SHORTEST_WIDTH
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(saliency, copies[1])


@pytest.mark.parametrize("title", ["", "cat", "a very long name " * 20, "café Größe 猫", "\n"])
def test_text_stays_inside(title: str) -> None:
    picture = overlay(photo(100, 330), blob(100, 330), title=title, subtitle=title)
    legend = picture[100:]
    for edge in (legend[:, :2], legend[:, -2:], legend[:2], legend[-1:]):
        assert (edge == PAPER).all()


def test_salient_pixels_keep_their_photo_others_turn_grey() -> None:
    red = np.zeros((100, 400, 3), np.uint8)
    red[..., 0] = 200
    saliency = np.zeros((100, 400), np.float32)
    saliency[:, 200:] = 1
    picture = overlay(red, saliency, title="x").astype(int)
    dark, lit = picture[50, 100], picture[50, 300]
    assert np.ptp(dark) <= 2
    assert lit.sum() > 3 * dark.sum()
