"""Similarities of maps, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.evaluation.metrics.similarity import (
    hog_similarity,
    spearman,
    spearman_absolute,
    ssim,
)

MEASURES = (spearman, spearman_absolute, ssim, hog_similarity)


def plain_pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    shared = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread_a = math.fsum((x - mean_a) ** 2 for x in a)
    return shared / math.sqrt(spread_a * math.fsum((y - mean_b) ** 2 for y in b))


def plain_ranks(values: list[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def plain_ssim(a: list[list[float]], b: list[list[float]]) -> float:
    """Mean over all windows of 5 x 5 that lie inside; variances over 24."""
    scores = []
    for top in range(len(a) - 4):
        for left in range(len(a[0]) - 4):
            x, y = (
                [value for row in m[top : top + 5] for value in row[left : left + 5]]
                for m in (a, b)
            )
            mx, my = math.fsum(x) / 25, math.fsum(y) / 25
            vx = math.fsum((v - mx) ** 2 for v in x) / 24
            vy = math.fsum((v - my) ** 2 for v in y) / 24
            both = math.fsum((v - mx) * (w - my) for v, w in zip(x, y, strict=True)) / 24
            above = (2 * mx * my + 1e-4) * (2 * both + 9e-4)
            scores.append(above / ((mx * mx + my * my + 1e-4) * (vx + vy + 9e-4)))
    return math.fsum(scores) / len(scores)


def plain_hog(one: np.ndarray) -> list[float]:
    """Cells of 16 pixels, 9 orientations over 180 degrees, blocks of 3 x 3 cells, L2-Hys."""
    height, width = one.shape
    rows, columns = height // 16, width // 16
    cells = np.zeros((rows, columns, 9))
    for y in range(rows * 16):
        for x in range(columns * 16):
            down = one[y + 1, x] - one[y - 1, x] if 0 < y < height - 1 else 0.0
            across = one[y, x + 1] - one[y, x - 1] if 0 < x < width - 1 else 0.0
            angle = math.degrees(math.atan2(down, across)) % 180
            cells[y // 16, x // 16, min(int(angle // 20), 8)] += math.hypot(down, across) / 256
    features: list[float] = []
    for top in range(rows - 2):
        for left in range(columns - 2):
            block = cells[top : top + 3, left : left + 3].ravel()
            block = np.minimum(block / math.sqrt((block**2).sum() + 1e-10), 0.2)
            features += (block / math.sqrt((block**2).sum() + 1e-10)).tolist()
    return features


def pairs(shape: tuple[int, ...], levels: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Return related maps; few levels give ties."""
    rng = np.random.default_rng(levels)
    a = rng.random(shape)
    b = 0.5 * a + 0.5 * rng.random(shape)
    return tuple((np.round(m * levels) / levels).astype(np.float32) for m in (a, b))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(1, 9, 13), (7, 8, 8), (7, 1, 5)])
@pytest.mark.parametrize("levels", [3, 1000])
def test_spearman_equals_plain_ranks(shape: tuple[int, ...], levels: int) -> None:
    a, b = pairs(shape, levels)
    for measure, change in (
        (spearman, lambda value: value),
        (spearman_absolute, lambda value: abs(np.float32(value) - np.float32(0.5))),
    ):
        for value, one, other in zip(measure(a, b), a, b, strict=True):
            ranks = [plain_ranks([change(v) for v in m.ravel().tolist()]) for m in (one, other)]
            if min(len(set(row)) for row in ranks) == 1:
                assert math.isnan(value)
            else:  # 1e-12: sums in another order
                assert value == pytest.approx(plain_pearson(*ranks), abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 9, 13), (7, 8, 8), (1, 5, 5)])
def test_ssim_equals_plain_windows(shape: tuple[int, ...]) -> None:
    a, b = pairs(shape)
    expected = [plain_ssim(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)]
    # 1e-9: scikit-image takes variances as differences of mean squares.
    np.testing.assert_allclose(ssim(a, b), expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 48, 70), (2, 64, 64)])
def test_hog_equals_plain_histograms(shape: tuple[int, ...]) -> None:
    a, b = pairs(shape)
    expected = [plain_pearson(plain_hog(x), plain_hog(y)) for x, y in zip(a, b, strict=True)]
    # 1e-3: a gradient on the very border of two orientations may be put into either.
    np.testing.assert_allclose(hog_similarity(a, b), expected, atol=1e-3)


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_maps_are_fully_similar_and_order_does_not_matter(
    measure: Callable[..., np.ndarray],
) -> None:
    a, b = pairs((3, 48, 48))
    np.testing.assert_allclose(measure(a, a), 1, atol=1e-12)  # rounding
    np.testing.assert_allclose(measure(a, b), measure(b, a), atol=1e-12)
    assert (np.abs(measure(a, b)) < 0.999).all()


def test_signs() -> None:
    a, _ = pairs((2, 48, 48))
    np.testing.assert_allclose(spearman(a, 1 - a), -1, atol=1e-12)
    # 1 - a rounds, so that a few ties of |m - 0.5| become neighbours.
    np.testing.assert_allclose(spearman_absolute(a, 1 - a), 1, atol=1e-5)
    assert (ssim(a, 1 - a) < 0).all()
    np.testing.assert_allclose(hog_similarity(a, 1 - a), 1, atol=1e-3)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("constant", [0.0, 0.1, 1.0])
def test_constant_maps_give_nan(measure: Callable[..., np.ndarray], constant: float) -> None:
    a, b = pairs((3, 48, 48))
    a[1] = b[2] = constant
    for first, second in ((a, b), (b, a)):
        assert np.isnan(measure(first, second)).tolist() == [False, True, True]
    a[2] = constant
    assert np.isnan(measure(a, b)).tolist() == [False, True, True]


@pytest.mark.parametrize("measure", MEASURES)
def test_what_cannot_be_used_is_refused(measure: Callable[..., np.ndarray]) -> None:
    a, _ = pairs((2, 48, 48))
    with pytest.raises(InputError, match="expected the same"):
        measure(a, a[:1])
    with pytest.raises(InputError, match=r"map\[None\]"):
        measure(a[0], a[0])
    with pytest.raises(InputError, match="NaN"):
        measure(a, a * np.float32(np.nan))
    assert measure(a[:0], a[:0]).shape == (0,)


def test_maps_too_small_are_refused() -> None:
    a, _ = pairs((1, 48, 47))
    with pytest.raises(InputError, match="at least 48"):
        hog_similarity(a, a)
    with pytest.raises(InputError, match="at least 5"):
        ssim(a[:, :4], a[:, :4])
