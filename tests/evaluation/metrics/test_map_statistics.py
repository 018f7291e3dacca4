"""Statistics of maps, against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.map_statistics import compactness, entropy, map_difference

SHAPES = [(1, 9, 13), (7, 8, 8), (7, 1, 5), (1, 6, 1), (1, 1, 1)]


def random_maps(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    maps = rng.random(shape) * (rng.random(shape) < 0.7)
    maps[rng.random(shape) < 0.1] = 1
    return maps.astype(np.float32)


def plain_compactness(values: list[float]) -> float:
    half, mass = math.fsum(values) / 2, []
    for value in sorted(values, reverse=True):
        mass.append(value)
        if math.fsum(mass) >= half:
            break
    return len(mass) / len(values) if half else math.nan


def plain_entropy(values: list[float], whole: bool) -> float:
    bits = 0.0
    for value in values:
        if 0 < value < 1:
            bits -= value * math.log2(value)
            bits -= (1 - value) * math.log2(1 - value) if whole else 0
    return bits / len(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_random_maps_equal_plain_sums(shape: tuple[int, ...]) -> None:
    maps = random_maps(shape)
    flat = [one.ravel().tolist() for one in maps]
    np.testing.assert_array_equal(compactness(maps), [plain_compactness(one) for one in flat])
    # 1e-12: sums in another order, in double precision.
    for variant, whole in (("paper", True), ("released", False)):
        bits = entropy(maps, variant=variant)  # type: ignore[arg-type]
        np.testing.assert_allclose(bits, [plain_entropy(one, whole) for one in flat], atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_differences_equal_plain_sums(shape: tuple[int, ...]) -> None:
    a, b = random_maps(shape) - np.float32(0.3), random_maps(shape, 1) * 7
    a[0] = 0
    for value, one, other in zip(map_difference(a, b), a, b, strict=True):
        pairs = list(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
        apart = sum((x - y) ** 2 for x, y in pairs)
        size = sum(x * x + y * y for x, y in pairs) / 2
        # 1e-12: sums in another order.
        assert value == pytest.approx(apart / size if size else 0, rel=1e-12)


def test_compactness_by_hand() -> None:
    one = np.zeros((1, 10, 10), np.float32)
    assert np.isnan(compactness(one)).all()
    one[0, 3, 3] = 0.1
    assert compactness(one).tolist() == [0.01]
    one[0, 7, 7] = 0.1
    assert compactness(one).tolist() == [0.01]  # half of the mass exactly
    one[0, 7, 8] = 0.1
    assert compactness(one).tolist() == [0.02]
    assert compactness(np.full((2, 10, 10), 0.3, np.float32)).tolist() == [0.5, 0.5]
    assert compactness(one[:0]).shape == (0,)


def test_entropy_by_hand() -> None:
    half, binary = np.full((1, 4, 4), 0.5, np.float32), np.eye(4, dtype=np.float32)[None]
    assert entropy(half).tolist() == [1]
    assert entropy(half, variant="released").tolist() == [0.5]
    assert entropy(binary).tolist() == entropy(binary, variant="released").tolist() == [0]


def test_difference_by_hand() -> None:
    one = np.array([[[3.0, 4.0]]])
    for a, b, expected in ((one, one, 0), (one, -one, 4), (one, 0 * one, 2), (0 * one, 0 * one, 0)):
        assert map_difference(a, b).tolist() == [expected]


def test_what_cannot_be_used_is_refused() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    for statistic in (compactness, entropy):
        with pytest.raises(InputError, match=r"0\.\.1"):
            statistic(maps + 2)
        with pytest.raises(InputError, match=r"map\[None\]"):
            statistic(maps[0])
    with pytest.raises(OptionError, match="variant"):
        entropy(maps, variant="other")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected the same"):
        map_difference(maps, maps[:, 1:])
    with pytest.raises(InputError, match="NaN"):
        map_difference(maps, maps * np.float32(np.nan))
