import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from klieg.errors import ImageError
from klieg.images.arrays import as_image

PHOTO = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
PHOTO[0, 0] = [0, 2, 255]


def assert_same(image: np.ndarray, expected: np.ndarray, dtype: type) -> None:
    assert image.dtype == np.dtype(dtype)
    assert image.dtype.isnative
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">i2", "i4", ">u8", "i8"])
def test_integers_become_uint8(dtype):
    assert_same(as_image(PHOTO.astype(dtype)), PHOTO, np.uint8)


@pytest.mark.parametrize("dtype", ["f2", ">f2", "f4", ">f4", "f8", ">f8", np.longdouble])
def test_floats_become_float32(dtype):
    assert_same(as_image(PHOTO.astype(dtype)), PHOTO, np.float32)


def test_fractions_are_kept():
    assert_same(as_image(PHOTO / 2), PHOTO / 2, np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_memory_layout(dtype):
    photo = PHOTO.astype(dtype)
    read_only = photo.copy()
    read_only.flags.writeable = False
    assert_same(as_image(read_only), PHOTO, dtype)
    assert_same(as_image(photo[::-1, ::-2, ::-1]), PHOTO[::-1, ::-2, ::-1], dtype)
    assert_same(as_image(np.asfortranarray(photo)), PHOTO, dtype)
    assert_same(as_image(photo.transpose(1, 0, 2)), PHOTO.transpose(1, 0, 2), dtype)


def test_smallest_image():
    assert as_image(np.full((1, 1, 3), 9, np.uint8)).shape == (1, 1, 3)


def test_a_black_image_of_integers_is_accepted():
    assert not as_image(np.zeros((2, 2, 3), np.int32)).any()


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((5, 7), r"np\.stack"),
        ((5, 7, 1), r"np\.repeat"),
        ((5, 7, 4), r"alpha"),
        ((3, 5, 7), r"np\.moveaxis"),
        ((1, 5, 7, 3), r"one by one"),
        ((5, 7, 2), r"must come last"),
        ((7,), r"must come last"),
        ((), r"must come last"),
        ((0, 7, 3), r"no pixel"),
        ((5, 0, 3), r"no pixel"),
    ],
)
def test_wrong_shapes_are_refused_with_advice(shape, advice):
    with pytest.raises(ImageError, match=advice) as caught:
        as_image(np.full(shape, 9, np.uint8))
    assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize("dtype", [bool, complex, object, "U1", "S1", "m8[s]", "M8[s]"])
def test_wrong_types_are_refused(dtype):
    with pytest.raises(ImageError, match="dtype"):
        as_image(np.zeros((2, 2, 3), dtype))


@pytest.mark.parametrize("value", [[[[1, 2, 3]]], None, "photo.jpg"])
def test_what_is_no_array_is_refused(value):
    with pytest.raises(ImageError, match=r"np\.asarray"):
        as_image(value)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_counted_and_located(bad, dtype):
    photo = PHOTO.astype(dtype)
    photo[1, 2, 0] = photo[4, 6, 2] = bad
    with pytest.raises(ImageError, match=r"2 values .* first at \[1, 2, 0\]"):
        as_image(photo)


@pytest.mark.parametrize(("value", "dtype"), [(-1, "i2"), (256, "u2"), (255.5, "f4"), (-0.5, "f8")])
def test_values_out_of_range_are_refused_with_the_range(value, dtype):
    photo = PHOTO.astype(dtype)
    photo[2, 2, 2] = value
    low, high = min(value, 0), max(value, 255)
    with pytest.raises(ImageError, match=rf"from {low:g}\S* to {high:g}"):
        as_image(photo)


@pytest.mark.parametrize("scale", [0.0, 1 / 255])
def test_floats_scaled_to_one_are_refused(scale):
    with pytest.raises(ImageError, match=r"multiply it by 255.*uint8"):
        as_image(PHOTO * scale)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    hnp.arrays(
        st.one_of(hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(endianness="?")),
        st.one_of(hnp.array_shapes(max_side=4), st.just((2, 2, 3))),
    )
)
def test_any_array_is_checked_or_refused(array):
    try:
        image = as_image(array)
    except ImageError:
        return
    assert image.dtype in (np.uint8, np.float32)
    np.testing.assert_array_equal(image, array.astype(image.dtype))
