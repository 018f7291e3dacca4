from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from klieg.errors import ImageError, OptionError
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.pyramid import pyramid
from klieg.kernels.cuda.pyramid_plain import pyramid_plain
from klieg.kernels.device.array import DeviceArray
from klieg.methods.cameras import enlarge_images

EXAMPLES = min(25, int(os.environ.get("KLIEG_SHIM_EXAMPLES", "25")))
# Two sums of four products of 255 at most, whose weights' magnitudes add up to 1.4 each.
ROUNDING = 2e-4


def drawn(batch: int, side: int, channels: int, interleaved: bool) -> np.ndarray:
    generator = np.random.default_rng(0)
    if interleaved:
        return generator.integers(0, 256, (batch, side, side, channels), dtype=np.uint8)
    return generator.uniform(0, 255, (batch, channels, side, side)).astype(np.float32)


def made(kernels: Kernels, images: np.ndarray, size: int, **options: Any) -> np.ndarray:
    arrays = {
        name: DeviceArray.of(kernels.device, value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    result = pyramid(kernels, DeviceArray.of(kernels.device, images), size, **arrays)
    return result.to_host(kernels.device)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    batch=st.sampled_from([1, 2, 7]),
    side=st.integers(1, 20),
    size=st.integers(1, 50),
    channels=st.integers(1, 5),
    interleaved=st.booleans(),
    half=st.booleans(),
    normalised=st.sampled_from(["both", "scale", "shift", "neither"]),
)
@example(batch=7, side=5, size=20, channels=3, interleaved=True, half=True, normalised="both")
@example(batch=1, side=1, size=1, channels=1, interleaved=True, half=False, normalised="neither")
def test_equals_the_definition(
    kernels: Kernels,
    batch: int,
    side: int,
    size: int,
    channels: int,
    interleaved: bool,
    half: bool,
    normalised: str,
) -> None:
    images = drawn(batch, side, channels, interleaved)
    scale = np.linspace(0.5, 1.5, channels, dtype=np.float32) / 58
    shift = np.linspace(-2, 2, channels, dtype=np.float32)
    options = {
        "scale": scale if normalised in ("both", "scale") else None,
        "shift": shift if normalised in ("both", "shift") else None,
    }
    dtype = np.float16 if half else np.float32
    got = made(kernels, images, size, dtype=dtype, **options)
    truth = pyramid_plain(images, size, **options)
    assert got.shape == truth.shape
    assert got.dtype == dtype
    # A half has 11 bits.
    tolerance = ROUNDING * (1 if options["scale"] is None else float(scale.max()))
    tolerance += 1e-6  # of the shift
    np.testing.assert_allclose(got, truth, rtol=2**-11 if half else 0, atol=tolerance)


@pytest.mark.parametrize(("side", "size"), [(7, 7), (9, 32), (16, 5), (14, 58), (23, 41)])
def test_equals_opencv_and_torch(kernels: Kernels, side: int, size: int) -> None:
    images = drawn(2, side, 3, interleaved=False)
    got = made(kernels, images, size)
    # Both find positions in float32: units in the last place of 23 cells, times a slope of 500.
    np.testing.assert_allclose(got, enlarge_images(images, size), atol=3e-3)
    import torch  # not at the top: sanitizers run this file too, and take minutes to load it

    by_torch = torch.nn.functional.interpolate(
        torch.from_numpy(images), (size, size), mode="bicubic", align_corners=False
    )
    np.testing.assert_allclose(got, by_torch.numpy(), atol=3e-3)


@pytest.mark.parametrize("interleaved", [True, False])
def test_same_size_changes_nothing(kernels: Kernels, interleaved: bool) -> None:
    images = drawn(2, 21, 3, interleaved)
    planes = images.transpose(0, 3, 1, 2) if interleaved else images
    np.testing.assert_array_equal(made(kernels, images, 21), planes)


@pytest.mark.parametrize(("side", "size"), [(3, 1100), (1, 1028), (3000, 2), (2500, 6), (900, 44)])
def test_several_strips_of_columns(kernels: Kernels, side: int, size: int) -> None:
    images = drawn(1, side, 1, interleaved=True)
    got = made(kernels, images, size)
    np.testing.assert_allclose(got, pyramid_plain(images, size), atol=ROUNDING)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 4, 5, 3), np.uint8),
        ((2, 3, 4, 5), np.float32),
        ((4, 4, 3), np.uint8),
        ((2, 3, 4, 4), np.float64),
        ((0, 4, 4, 3), np.uint8),
    ],
)
def test_other_images_are_refused(kernels: Kernels, shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ImageError, match=r"expected uint8 \[B, S, S, C\]"):
        pyramid(kernels, DeviceArray.of(kernels.device, np.zeros(shape, dtype)), 8)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (0, {}),
        (16385, {}),
        (8, {"dtype": np.float64}),
        (8, {"scale": np.ones(2, np.float32)}),
        (8, {"shift": np.ones(3, np.float64)}),
    ],
)
def test_impossible_options_are_refused(kernels: Kernels, size: int, options: Any) -> None:
    with pytest.raises(OptionError, match="expected"):
        made(kernels, drawn(1, 4, 3, interleaved=True), size, **options)
