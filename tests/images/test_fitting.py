import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.errors import InputError, OptionError
from klieg.images.fitting import PADDING, fit_image

FITS = ["crop", "letterbox", "stretch"]
repeatable = settings(max_examples=100, derandomize=True, deadline=None)
sides = st.integers(1, 250)
sizes = st.integers(1, 64)
fits = st.sampled_from(FITS)


def noise(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3)).astype(dtype)


def ramps(height: int, width: int) -> np.ndarray:
    """A photo that says where its pixels are: channel 0 the row, channel 1 the column."""
    rows, columns = np.indices((height, width), dtype=np.float32)
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2)


@repeatable
@given(sides, sides, sizes, fits, st.sampled_from([np.uint8, np.float32]))
def test_any_photo_fits_and_any_map_comes_back(height, width, size, fit, dtype):
    photo = noise(height, width, dtype)
    before = photo.copy()
    fitted, placement = fit_image(photo, size, fit)
    assert fitted.shape == (size, size, 3)
    assert fitted.dtype == np.float32
    assert fitted.flags.c_contiguous
    assert fitted.min() >= 0
    assert fitted.max() <= 255
    back = placement.to_photo(fitted[..., 0])
    assert back.shape == (height, width)
    assert back.dtype == np.float32
    assert np.isfinite(back).all()
    np.testing.assert_array_equal(photo, before)


@repeatable
@given(sides, sides, sizes, fits)
def test_every_place_comes_back_where_it_was(height, width, size, fit):
    fitted, placement = fit_image(ramps(height, width), size, fit)
    seen, target = placement.seen, placement.target
    for axis, (first, length, model) in enumerate(
        [(seen.top, seen.height, target.height), (seen.left, seen.width, target.width)]
    ):
        back = placement.to_photo(fitted[..., axis])[seen.slices]  # [seen h, seen w]
        place = np.moveaxis(back, axis, 0) - first  # along the axis, in pixels
        moved = np.abs(place - np.arange(length)[:, None])
        # An average weights the pixels that it cuts, which moves a ramp by up to 1/8 pixel.
        # Nothing is known beyond the edge, so the outer pixels of the model smear (cubic: 3).
        edge = int(np.ceil(3 * length / model)) if model > 1 else length
        assert moved[edge : length - edge].max(initial=0) < 0.13
        # Even there, nothing moves by more than the pixel of the model it lies in, and a half.
        assert moved.max() <= 0.5 + 0.5 * length / model


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(300, 300), (301, 203), (97, 250), (50, 61), (640, 427)])
def test_a_blob_comes_back_at_its_place(shape, fit):
    height, width = shape
    rows, columns = np.indices(shape)
    top, left = height * 0.45, width * 0.55
    sigma = min(shape) / 20
    blob = 200 * np.exp(-((rows - top) ** 2 + (columns - left) ** 2) / (2 * sigma**2))
    fitted, placement = fit_image(np.stack([blob] * 3, axis=2).astype(np.float32), 64, fit)
    back = placement.to_photo(fitted[..., 0])
    back[back < 20] = 0  # the padding is cut off; this drops the rest
    assert abs((back * rows).sum() / back.sum() - top) < 0.5
    assert abs((back * columns).sum() / back.sum() - left) < 0.5


@repeatable
@given(st.integers(1, 64), fits, st.sampled_from([np.uint8, np.float32]))
def test_a_photo_of_the_right_size_is_unchanged(size, fit, dtype):
    photo = noise(size, size, dtype)
    fitted, placement = fit_image(photo, size, fit)
    np.testing.assert_array_equal(fitted, photo)
    np.testing.assert_array_equal(placement.to_photo(fitted[..., 2]), photo[..., 2])
    assert not np.shares_memory(fitted, photo)


@repeatable
@given(sides, sides, sizes, fits)
def test_a_plain_photo_stays_plain(height, width, size, fit):
    photo = np.full((height, width, 3), 77, np.uint8)
    fitted, placement = fit_image(photo, size, fit)
    shown = fitted[placement.target.slices]
    np.testing.assert_allclose(shown, 77, atol=1e-3)
    assert np.count_nonzero(fitted == PADDING) == fitted.size - shown.size


def test_crop_shows_the_centre_and_knows_nothing_of_the_rest():
    photo = noise(8, 20)
    fitted, placement = fit_image(photo, 8, "crop")
    np.testing.assert_array_equal(fitted, photo[:, 6:14])
    back = placement.to_photo(np.ones((8, 8), np.float32))
    assert back[:, 6:14].all()
    assert back.sum() == 64


def test_letterbox_pads_evenly_and_the_padding_does_not_come_back():
    photo = noise(20, 8)
    fitted, placement = fit_image(photo, 20, "letterbox")
    np.testing.assert_array_equal(fitted[:, 6:14], photo)
    assert (np.delete(fitted, np.s_[6:14], axis=1) == 127.5).all()
    heatmap = np.full((20, 20), 9, np.float32)
    heatmap[:, 6:14] = 1
    np.testing.assert_array_equal(placement.to_photo(heatmap), np.ones((20, 8)))


@repeatable
@given(sides, sides, sizes)
def test_letterbox_keeps_the_aspect(height, width, size):
    target = fit_image(noise(height, width), size, "letterbox")[1].target
    assert max(target.height, target.width) == size
    scale = size / max(height, width)
    assert abs(target.height - height * scale) <= (0.5 if height * scale > 0.5 else 1)
    assert abs(target.width - width * scale) <= (0.5 if width * scale > 0.5 else 1)
    assert abs(2 * target.top + target.height - size) <= 1
    assert abs(2 * target.left + target.width - size) <= 1


def test_shrinking_averages_each_axis_even_when_the_other_is_enlarged():
    stripes = np.zeros((4, 64, 3), np.float32)  # sampled instead of averaged, these would alias
    stripes[:, ::8] = 240
    fitted, _ = fit_image(stripes, 8, "stretch")
    np.testing.assert_allclose(fitted, 30, atol=1e-3)


def test_enlarging_interpolates_bicubically_within_the_range():
    photo = np.zeros((6, 6, 3), np.uint8)
    photo[:, 3:] = 255
    fitted, _ = fit_image(photo, 48, "stretch")
    cubic = cv2.resize(photo.astype(np.float32), (48, 48), interpolation=cv2.INTER_CUBIC)
    assert cubic.max() > 255
    np.testing.assert_array_equal(fitted, cubic.clip(0, 255))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (1, 1), (1, 200_000), (3, 70_000)])
def test_extreme_shapes(shape, fit):
    fitted, placement = fit_image(noise(*shape), 32, fit)
    assert placement.to_photo(fitted[..., 0]).shape == shape


@pytest.mark.parametrize("dtype", [np.float64, ">f4", np.float16])
def test_a_map_of_another_type_or_layout_comes_back(dtype):
    placement = fit_image(noise(9, 11), 8, "stretch")[1]
    heatmap = np.arange(64, dtype=np.float32).reshape(8, 8)
    expected = placement.to_photo(heatmap.T)
    np.testing.assert_array_equal(placement.to_photo(heatmap.astype(dtype).T), expected)


@pytest.mark.parametrize("shape", [(7, 7), (8, 9), (64,), (8, 8, 1), (1, 8, 8)])
def test_a_map_of_another_size_is_refused(shape):
    placement = fit_image(noise(9, 11), 8, "crop")[1]
    with pytest.raises(InputError, match=r"expected \[8, 8\]"):
        placement.to_photo(np.zeros(shape, np.float32))


def test_an_unknown_fit_is_refused():
    with pytest.raises(OptionError, match=r"'squash'.* crop, letterbox, stretch"):
        fit_image(noise(3, 3), 3, "squash")
