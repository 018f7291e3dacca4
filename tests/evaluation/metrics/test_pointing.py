"""The pointing game, against a loop over all pixels."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.pointing import difficult_pairs, pointing_hits


def plain_hit(values: list[list[float]], marked: list[list[bool]], radius: float) -> float:
    best = max(max(row) for row in values)
    peak = next((y, x) for y, row in enumerate(values) for x, v in enumerate(row) if v == best)
    for y, row in enumerate(marked):
        for x, on in enumerate(row):
            if on and (y - peak[0]) ** 2 + (x - peak[1]) ** 2 < radius**2:
                return 1.0
    return 0.0


@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5, 3.0, 15.0])
@pytest.mark.parametrize("levels", [2, 1000])  # few levels: ties
def test_random_photos_equal_plain_search(radius: float, levels: int) -> None:
    rng = np.random.default_rng(levels)
    maps, objects = [], []
    for _ in range(150):  # of different sizes
        shape = tuple(rng.integers(1, 40, 2))
        maps.append((rng.integers(0, levels, shape) / levels).astype(np.float32))
        marked = rng.random(shape) < rng.choice([0.002, 0.3])
        marked[rng.integers(shape[0]), rng.integers(shape[1])] = True
        objects.append(marked)
    expected = [
        plain_hit(one.tolist(), marked.tolist(), radius)
        for one, marked in zip(maps, objects, strict=True)
    ]
    assert pointing_hits(maps, objects, radius=radius).tolist() == expected
    assert 0 < sum(expected) < 150


def test_the_disc_is_open_and_the_first_maximum_counts() -> None:
    one = np.zeros((40, 50), np.float32)
    one[20, 30] = one[20, 31] = 1
    for column, hit in ((14, 0), (15, 0), (16, 1), (30, 1), (44, 1), (45, 0)):
        marked = np.zeros(one.shape, np.bool_)
        marked[20, column] = True
        assert pointing_hits([one], [marked]).tolist() == [hit]
        assert pointing_hits([one - 7], [marked]).tolist() == [hit]  # of any range


def test_difficult_pairs_by_hand() -> None:
    quarter, less = np.zeros((2, 4, 8), np.bool_)
    quarter[:2, :4] = less[:2, :3] = True
    objects = [quarter, less, quarter, less]
    others = np.array([True, True, False, False])
    assert difficult_pairs(objects, others).tolist() == [False, True, False, False]


def test_what_cannot_be_used_is_refused() -> None:
    one, marked = np.zeros((4, 5), np.float32), np.ones((4, 5), np.bool_)
    for maps, objects, message in (
        ([one], [], "same number"),
        ([one], [marked[1:]], "expected the same"),
        ([one], [~marked], "no pixel of photo 0"),
        ([one], [marked.astype(np.uint8)], "uint8"),
        ([one + np.float32(np.nan)], [marked], "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            pointing_hits(maps, objects)  # type: ignore[arg-type]
    for radius in (0, -1, np.nan, np.inf):
        with pytest.raises(OptionError, match="radius"):
            pointing_hits([one], [marked], radius=radius)
    with pytest.raises(InputError, match="same number"):
        difficult_pairs([marked], np.array([True, False]))
