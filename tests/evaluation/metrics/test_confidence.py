"""Confidence in what maps keep, against plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.evaluation.metrics.confidence import average_drop, average_increase, masked, rho


@pytest.mark.parametrize("batch", [1, 7])
def test_images_fade_pixel_by_pixel(batch: int) -> None:
    rng = np.random.default_rng(batch)
    images = rng.uniform(0, 255, (batch, 3, 5, 5)).astype(np.float32)
    maps = rng.random((batch, 5, 5)).astype(np.float32)
    maps[0, 0, :2] = 0, 1
    fill = rng.uniform(0, 255, (3, 1, 1)).astype(np.float32)
    faded = masked(images, maps, fill=fill)
    assert faded.dtype == np.float32
    assert faded.shape == images.shape
    for n, c, y, x in np.ndindex(*images.shape):
        m = float(maps[n, y, x])
        expected = float(images[n, c, y, x]) * m + float(fill[c, 0, 0]) * (1 - m)
        # 1e-4 of 255: float32.
        assert faded[n, c, y, x] == pytest.approx(expected, abs=1e-4)
    np.testing.assert_array_equal(faded[0, :, 0, 0], fill[:, 0, 0])


def test_masking_with_the_mean_is_masking_normalised_images() -> None:
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, 3, 4, 4)).astype(np.float32)
    maps = rng.random((2, 4, 4)).astype(np.float32)
    mean, deviation = rng.uniform(50, 200, (2, 3, 1, 1)).astype(np.float32)
    faded = (masked(images, maps, fill=mean) - mean) / deviation
    # 1e-5: float32 values of a few units.
    np.testing.assert_allclose(faded, (images - mean) / deviation * maps[:, None], atol=1e-5)


def test_rho_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    kept, removed, mass = rng.random((3, 7))
    plus, minus = rho(kept, removed, mass)
    for n in range(7):
        assert plus[n] == pytest.approx(kept[n] / mass[n])
        assert minus[n] == pytest.approx(removed[n] / (1 - mass[n]))


def test_rho_of_full_and_empty_maps() -> None:
    plus, minus = rho([0.7, 0.1], [0.1, 0.7], [1, 0])
    assert plus[0] == minus[1] == 0.7
    assert math.isnan(plus[1])
    assert math.isnan(minus[0])


def test_drop_and_increase_by_hand() -> None:
    full, kept = [0.5, 0.5, 0.5, 1, 0.25, 0, 0], [0.25, 0.5, 0.75, 0, 1, 0.5, 0]
    drop = average_drop(full, kept)
    assert drop[:5].tolist() == [50, 0, 0, 100, 0]
    assert np.isnan(drop[5:]).all()
    assert average_increase(full, kept).tolist() == [0, 0, 100, 0, 100, 100, 0]


def test_what_cannot_be_used_is_refused() -> None:
    images, maps = np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 4, 4), np.float32)
    fill = np.zeros((3, 1, 1), np.float32)
    for pictures, masks, message in (
        (images, maps[:, :2], "expected one of the size"),
        (images, np.repeat(maps, 2, axis=0), "expected one of the size"),
        (images, maps + 2, r"0\.\.1"),
        (images[0], maps, r"image\[None\]"),
    ):
        with pytest.raises(InputError, match=message):
            masked(pictures, masks, fill=fill)
    with pytest.raises(InputError, match="one of each"):
        rho([0.5], [0.5, 0.5], [0.5])
    for wrong in (-0.1, 90, np.nan):
        with pytest.raises(InputError, match=r"kept has values outside 0\.\.1"):
            average_drop([0.5], [wrong])
