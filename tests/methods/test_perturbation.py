"""Meaningful and extremal perturbations: adjoints, gradients, and a patch that has to be found."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from helpers.torch_backend import info
from klieg.images.batch import Batch
from klieg.methods import extremal as extremal_module
from klieg.methods import meaningful as meaningful_module
from klieg.methods import model as passes_module
from klieg.methods.extremal import AREAS, RADIUS, binary_targets, dilated, dilated_adjoint, extremal
from klieg.methods.meaningful import meaningful
from klieg.methods.model import Model
from klieg.methods.perturbation import Fading, adam, enlarging

SIZE, CELLS = 32, 16
PATCH = (slice(18, 26), slice(4, 12))
FINDERS = {"meaningful": meaningful, "extremal": extremal}


class Detector:
    """Logit 1 is 8 tanh of the contrast in a patch, in float64; logit 0 is the same negated."""

    def __init__(self, strength: float = 1.0) -> None:
        self.weight = np.zeros((3, SIZE, SIZE))
        self.weight[(slice(None), *PATCH)] = strength * checks(8) / 4000
        self.rows: list[int] = []

    @property
    def versions(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        pass

    def run(
        self, images: np.ndarray, targets: np.ndarray, outputs: Sequence[str]
    ) -> list[np.ndarray]:
        assert images.dtype == np.float32
        self.rows.append(len(images))
        contrast = np.tanh(np.einsum("bchw,chw->b", images.astype(np.float64), self.weight))
        sign = np.where(targets == 1, 8, -8)
        gradient = (sign * (1 - contrast**2))[:, None, None, None] * self.weight
        values = {"logits": 8 * np.stack([-contrast, contrast], axis=1), "image_gradient": gradient}
        return [values[name] for name in outputs]

    def model(self) -> Model:
        return Model(self, info(input_size=SIZE))


def checks(side: int) -> np.ndarray:
    """Return stripes of width 2, +1 and -1, which blurring wipes out."""
    return np.broadcast_to(np.where(np.arange(side) // 2 % 2, 1.0, -1.0), (side, side))


def photos(count: int) -> np.ndarray:
    """Return noise with stripes in the patch, and the same stripes in another place as a lure."""
    images = np.random.default_rng(2).uniform(60, 120, (count, 3, SIZE, SIZE))
    images[(..., *PATCH)] = 128 + 100 * checks(8)
    images[..., 3:11, 20:28] = 128 + 100 * checks(8)
    return images.astype(np.float32)


def random_grid(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(0.1, 0.9, shape)


@pytest.mark.parametrize(("size", "cells"), [(32, 16), (33, 7), (8, 8), (5, 12), (1, 1)])
def test_enlarging(size: int, cells: int) -> None:
    rng, matrix = np.random.default_rng(0), enlarging(size, cells)
    grid, image = rng.normal(size=(3, cells, cells)), rng.normal(size=(3, size, size))
    one = np.sum((matrix @ grid @ matrix.T) * image)
    other = np.sum(grid * (matrix.T @ image @ matrix))
    np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1])  # no side is preferred
    for pixel in range(size):
        place = (pixel + 0.5) * cells / size - 0.5
        weights = [np.exp(-(((place - cell) / 0.625) ** 2) / 2) for cell in range(cells)]
        np.testing.assert_allclose(matrix[pixel], np.array(weights) / sum(weights))


def test_dilation_by_loops() -> None:
    side = 3 + 2 * RADIUS
    grid = random_grid(2, 1, side, side)
    got = dilated(grid)
    for image, row, column in np.ndindex(2, 3, 3):
        f = [
            grid[image, 0, y, x] * np.exp(-(max(0, distance - 1) ** 2) / 4)
            for y, x in np.ndindex(side, side)
            if (distance := np.hypot(y - row - RADIUS, x - column - RADIUS)) <= RADIUS
        ]
        power = [np.exp(20 * value) for value in f]
        expected = np.dot(f, power) / sum(power)
        np.testing.assert_allclose(got[image, 0, row, column], expected)


def test_dilation_adjoint() -> None:
    """<J u, v> = <u, J^T v>, with J u by central differences: their error is about h^2 T^-2."""
    side = 6 + 2 * RADIUS
    rng, grid = np.random.default_rng(0), random_grid(2, 3, side, side)
    u, v = rng.normal(size=grid.shape), rng.normal(size=(2, 3, 6, 6))
    h = 1e-5
    forward = (dilated(grid + h * u) - dilated(grid - h * u)) / (2 * h)
    np.testing.assert_allclose(np.sum(forward * v), np.sum(u * dilated_adjoint(grid, v)), rtol=1e-6)
    flat = np.full((1, 1, side, side), 0.5)
    assert np.ptp(dilated(flat)) < 1e-12  # no place is preferred
    assert dilated(np.ones_like(flat)).max() <= 1


def test_ranked_area() -> None:
    masks = np.random.default_rng(0).uniform(0, 1, (2, len(AREAS), 10, 10))
    got = binary_targets(masks)
    for image in range(2):
        for a, area in enumerate(AREAS):
            count = round(100 * area)
            wanted = np.array([0] * (100 - count) + [1] * count)
            order = np.argsort(masks[image, a], axis=None)
            np.testing.assert_array_equal(got[image, a].ravel()[order], wanted)
    # Through the enlarging, whose rounding must not decide which pixels come first.
    matrix = enlarging(10, CELLS)
    grid = np.full((1, len(AREAS), CELLS + 2 * RADIUS, CELLS + 2 * RADIUS), 0.5)
    flat = matrix @ dilated(grid) @ matrix.T
    assert np.ptp(flat) > 0
    ties = binary_targets(flat)
    np.testing.assert_allclose(ties, np.array(AREAS)[None, :, None, None] * np.ones((10, 10)))


def objective_meaningful(fading: Fading, grid: np.ndarray) -> float:
    matrix = enlarging(SIZE, CELLS)
    score, _ = fading.score((matrix @ grid @ matrix.T)[:, None])
    assert (score > -1).all()
    total = float(score.sum() + meaningful_module.AREA * (1 - grid).mean(axis=(1, 2)).sum())
    for image, row, column in np.ndindex(*grid.shape):
        here = grid[image, row, column]
        if row:
            total += meaningful_module.VARIATION * abs(here - grid[image, row - 1, column]) ** 3
        if column:
            total += meaningful_module.VARIATION * abs(here - grid[image, row, column - 1]) ** 3
    return total


def objective_extremal(fading: Fading, grid: np.ndarray) -> float:
    matrix = enlarging(SIZE, CELLS)
    masks = matrix @ dilated(grid) @ matrix.T
    score, _ = fading.score(masks)
    total = -float(score.sum())
    for image, a in np.ndindex(*masks.shape[:2]):
        values = np.sort(masks[image, a], axis=None)
        ones = np.arange(values.size) >= values.size - round(AREAS[a] * values.size)
        total += 5 * float(np.mean((values - ones) ** 2))
    return total


@pytest.mark.parametrize("method", FINDERS)
def test_gradient_against_differences(method: str) -> None:
    """Along random directions: images are float32, whose rounding leaves 1e-4 of a difference."""
    fading = Fading(Detector().model(), photos(2), np.array([1, 0]), blur=0.05)
    matrix = enlarging(SIZE, CELLS)
    if method == "meaningful":
        grid = random_grid(2, CELLS, CELLS)
        gradient = meaningful_module.slope(fading, matrix, grid)
        objective = objective_meaningful
    else:
        grid = random_grid(2, len(AREAS), CELLS + 2 * RADIUS, CELLS + 2 * RADIUS)
        gradient = extremal_module.slope(fading, matrix, grid, 5.0)
        objective = objective_extremal
    rng, h = np.random.default_rng(0), 1e-4
    for _ in range(4):
        u = np.sign(gradient) * rng.uniform(0, 1, grid.shape)
        difference = (objective(fading, grid + h * u) - objective(fading, grid - h * u)) / (2 * h)
        np.testing.assert_allclose(difference, np.sum(gradient * u), rtol=1e-3)


def test_score() -> None:
    """0 for the image, -1 for the blurred one; +1 where blurring speaks for the class."""
    fading = Fading(Detector().model(), photos(2), np.array([1, 0]), blur=0.05)
    masks = np.stack([np.ones((2, SIZE, SIZE)), np.zeros((2, SIZE, SIZE))], axis=1)
    np.testing.assert_allclose(fading.score(masks)[0], [[0, -1], [0, 1]], atol=1e-5)


@pytest.mark.parametrize("method", FINDERS)
def test_finds_the_patch(method: str) -> None:
    detector, question = Detector(), Batch.single(photos(2), np.array([1, 1]))
    result = FINDERS[method](detector.model(), question, (SIZE,), steps=80, cells=CELLS)
    near = np.zeros((SIZE, SIZE), dtype=bool)
    near[15:29, 1:15] = True  # one and a half cells around the patch: 19 % of the image
    for raw in result.raw:
        assert raw.min() >= 0
        assert raw.max() <= 1
        y, x = np.unravel_index(raw.argmax(), raw.shape)
        assert near[y, x]
        if method == "meaningful":
            assert raw[near].sum() > 0.8 * raw.sum()
        assert raw[PATCH].mean() > 0.4
        assert raw[PATCH].mean() > 2 * raw[~near].mean()
    assert result.targets.tolist() == [1, 1]


@pytest.mark.parametrize("method", FINDERS)
def test_batch_equals_one_by_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding of the images in another order is amplified by Adam, but little in a few steps."""
    detector, images = Detector(), photos(3)

    def raw(question: Batch) -> np.ndarray:
        return FINDERS[method](detector.model(), question, (SIZE,), steps=12, cells=CELLS).raw

    together = raw(Batch(images, np.array([1, 0, -1, 1]), np.array([0, 0, 1, 2])))
    single = [
        raw(Batch.single(images[i : i + 1], np.array([t])))[0]
        for i, t in ((0, 1), (0, 0), (1, -1), (2, 1))
    ]
    np.testing.assert_allclose(together, single, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.05
    monkeypatch.setattr(passes_module, "PIXELS_PER_PASS", 8 * SIZE * SIZE)
    again = raw(Batch(images, np.array([1, 0, -1, 1]), np.array([0, 0, 1, 2])))
    np.testing.assert_allclose(again, together, atol=1e-4)
    assert max(detector.rows[-5:]) <= 8


@pytest.mark.parametrize("method", FINDERS)
@pytest.mark.parametrize("image", [None, 7.0])
def test_nothing_to_find(method: str, image: float | None) -> None:
    """A model with constant logits, and an image that blurring does not change."""
    images = photos(1) if image is None else np.full((1, 3, SIZE, SIZE), image, dtype=np.float32)
    detector = Detector(strength=0.0 if image is None else 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = FINDERS[method](
            detector.model(), Batch.single(images, np.array([1])), (SIZE,), steps=40, cells=CELLS
        )
    assert np.isfinite(result.raw).all()
    assert np.ptp(result.raw) <= 1e-6
    assert result.raw.max() < 1e-6


def test_adam() -> None:
    """Against plain scalar arithmetic."""
    got = adam(np.array([0.5, 0.9]), lambda v, s: 2 * v - 0.6 + s / 10, steps=7, rate=0.1)
    for start, end in zip((0.5, 0.9), got, strict=True):
        value, mean, square = start, 0.0, 0.0
        for t in range(1, 8):
            g = 2 * value - 0.6 + (t - 1) / 10
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
            value -= 0.1 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
            value = min(max(value, 0), 1)
        assert end == pytest.approx(value, rel=1e-12)
