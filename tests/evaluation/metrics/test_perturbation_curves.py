"""Insertion and deletion, against moving one pixel at a time."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.perturbation_curves import area_under, deletion, insertion

WEIGHTS = np.random.default_rng(9).random((3, 40, 40)).astype(np.float32)


def plain_chance(image: NDArray[Any]) -> float:
    weights = WEIGHTS[:, : image.shape[1], : image.shape[2]]
    return float((image.astype(np.float64) * weights).mean() / 255)


class Classifier:
    """A weighted mean that remembers how many images it got at a time."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        assert images.dtype == np.float32
        self.batches.append(len(images))
        return np.array([plain_chance(image) for image in images])


def plain_curve(
    start: NDArray[Any], end: NDArray[Any], saliency: NDArray[Any], steps: int
) -> list[float]:
    height, width = saliency.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    places.sort(key=lambda place: -saliency[place])  # stable: row by row
    current, curve, done = start.copy(), [plain_chance(start)], 0
    for step in range(1, steps + 1):
        while done < step * len(places) // steps:
            y, x = places[done]
            current[:, y, x] = end[:, y, x]
            done += 1
        curve.append(plain_chance(current))
    return curve


@pytest.mark.parametrize("steps", [1, 7, 28, 70])
@pytest.mark.parametrize("levels", [1, 3, 1000])  # few levels: ties
@pytest.mark.parametrize("size", [9, 12])
def test_curves_equal_moving_pixels(steps: int, levels: int, size: int) -> None:
    rng = np.random.default_rng(levels)
    image = rng.uniform(0, 255, (3, size, size)).astype(np.float32)
    fill = rng.uniform(0, 255, (3, 1, 1)).astype(np.float32)
    saliency = (rng.integers(0, levels, (size, size)) / levels).astype(np.float32)
    blurred = cv2.GaussianBlur(image.transpose(1, 2, 0), (0, 0), 2.0).transpose(2, 0, 1)
    plain = np.broadcast_to(fill, image.shape)
    for curve, start, end in (
        (insertion(Classifier(), image, saliency, steps=steps, sigma=2.0), blurred, image),
        (deletion(Classifier(), image, saliency, fill=fill, steps=steps), image, plain),
    ):
        assert curve.shape == (steps + 1,)
        # 1e-6: blurring channel by channel may round otherwise than all at once.
        np.testing.assert_allclose(curve, plain_curve(start, end, saliency, steps), atol=1e-6)


def test_few_images_exist_at_a_time() -> None:
    classifier = Classifier()
    image, saliency = np.ones((1, 8, 8), np.float32), np.ones((8, 8), np.float32)
    insertion(classifier, image, saliency, steps=70)
    assert classifier.batches == [32, 32, 7]


def test_ends_and_blur() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (3, 40, 40)).astype(np.float32)
    saliency = rng.random((40, 40)).astype(np.float32)
    seen: list[NDArray[np.float32]] = []

    def classify(images: NDArray[np.float32]) -> NDArray[np.float64]:
        seen.extend(images.copy())
        return np.zeros(len(images))

    insertion(classify, image, saliency, steps=2)
    np.testing.assert_array_equal(seen[-1], image)
    # Uniform noise has a deviation of 74: a Gaussian of 10 pixels leaves 1 / (2 sqrt(pi) 10) of it.
    assert seen[0].std(axis=(1, 2)).max() < 10
    seen.clear()
    deletion(classify, image, saliency, fill=np.full((3, 1, 1), 9, np.float32), steps=2)
    np.testing.assert_array_equal(seen[0], image)
    assert (seen[-1] == 9).all()


def test_area_by_hand() -> None:
    assert area_under(np.array([1, 1, 1])) == 1
    assert area_under(np.array([0, 1])) == 0.5
    assert area_under(np.array([0, 0, 1])) == 0.25
    assert area_under(np.array([[0, 0, 1], [1, 0, 0], [np.nan] * 3]))[:2].tolist() == [0.25] * 2
    curve = np.random.default_rng(0).random(29)
    expected = sum((a + b) / 2 / 28 for a, b in itertools.pairwise(curve))
    assert area_under(curve) == pytest.approx(expected)


def test_what_cannot_be_used_is_refused() -> None:
    image, saliency = np.zeros((3, 4, 4), np.float32), np.zeros((4, 4), np.float32)
    fill = np.zeros((3, 1, 1), np.float32)
    for picture, one, message in (
        (image, saliency[1:], r"\[C, S, S\]"),
        (image[0], saliency, r"\[C, S, S\]"),
        (image, saliency + np.float32(np.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            insertion(Classifier(), picture, one)
        with pytest.raises(InputError, match=message):
            deletion(Classifier(), picture, one, fill=fill)
    with pytest.raises(InputError, match="one probability each"):
        deletion(lambda images: np.zeros((len(images), 1)), image, saliency, fill=fill)
    with pytest.raises(OptionError, match="steps"):
        deletion(Classifier(), image, saliency, fill=fill, steps=0)
    for sigma in (0, -1, np.nan, np.inf):
        with pytest.raises(OptionError, match="sigma"):
            insertion(Classifier(), image, saliency, sigma=sigma)
    with pytest.raises(InputError, match="steps \\+ 1"):
        area_under(np.zeros(1))
