"""Maps that know nothing of the classifier."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.evaluation.baselines import BASELINES, centre, edges, full, gaussian, random

SIZES = [1, 2, 7, 32, 224]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("size", SIZES)
def test_maps_are_in_range(name: str, size: int) -> None:
    image = np.random.default_rng(size).uniform(0, 255, (3, size, size)).astype(np.float32)
    made = BASELINES[name](image, 3)
    assert made.shape == (size, size)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 1


def test_the_centre_covers_half() -> None:
    image = np.zeros((3, 224, 224), np.float32)
    square = centre(image, 0)
    assert square.mean() == pytest.approx(0.5, abs=0.01)  # whole pixels on each side
    assert np.array_equal(square, square[::-1, ::-1])
    assert full(image, 0).min() == 1


def test_the_bell_is_highest_in_the_centre() -> None:
    bell = gaussian(np.zeros((3, 31, 31), np.float32), 0)
    assert np.unravel_index(bell.argmax(), bell.shape) == (15, 15)
    assert bell[15, 15] == 1


def test_noise_depends_on_the_photo_alone() -> None:
    image = np.zeros((3, 16, 16), np.float32)
    assert np.array_equal(random(image, 4), random(image + 1, 4))
    assert not np.array_equal(random(image, 4), random(image, 5))


def test_edges_lie_on_the_edge() -> None:
    image = np.zeros((3, 16, 16), np.float32)
    image[:, :, 8:] = 255
    found = edges(image, 0)
    assert (found[:, 7:9] == 1).all()
    assert found[:, :6].max() == 0
    assert edges(np.zeros((3, 16, 16), np.float32), 0).max() == 0  # no division by zero
