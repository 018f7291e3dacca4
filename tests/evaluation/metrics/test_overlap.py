"""Soft F1, against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.evaluation.metrics.overlap import soft_f1


def plain_f1(values: list[list[float]], box: list[float]) -> float:
    left, top, right, bottom = (int(edge) for edge in box)
    area = (right - left) * (bottom - top)
    inside = total = 0.0
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            total += value
            inside += value * (left <= x < right and top <= y < bottom)
    precision = inside / (total + 1e-6)
    recall = inside / area if area else 0.0
    return 2 * precision * recall / (precision + recall + 1e-6)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("shape", [(9, 13), (8, 8), (1, 5)])
def test_random_maps_equal_plain_sums(batch: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(batch)
    maps = (rng.random((batch, *shape)) * (rng.random((batch, *shape)) < 0.5)).astype(np.float32)
    objects = [np.sort(rng.uniform(-4, 16, (n % 3 + 1, 2, 2)), axis=1) for n in range(batch)]
    boxes = [one.reshape(-1, 4) for one in objects]  # fractions, beyond the border
    best, mean = soft_f1(maps, boxes)
    for number, (one, marked) in enumerate(zip(maps, boxes, strict=True)):
        scores = [plain_f1(one.tolist(), box) for box in marked.tolist()]
        # 1e-12: sums in another order.
        assert best[number] == pytest.approx(max(scores), abs=1e-12)
        assert mean[number] == pytest.approx(sum(scores) / len(scores), abs=1e-12)


def test_by_hand() -> None:
    full, empty = np.ones((1, 4, 4), np.float32), np.zeros((1, 4, 4), np.float32)
    half = full.copy()
    half[:, :, 2:] = 0
    for maps, box, expected in (
        (half, [0, 0, 2, 4], 1),
        (full, [0, 0, 2, 4], 2 / 3),  # P 1/2, R 1
        (full, [-4, 0, 4, 4], 2 / 3),  # P 1, R 1/2: the area outside counts
        (full, [0, 0, 4, 12], 1 / 2),
        (half, [2, 0, 4, 4], 0),
        (full, [9, 9, 12, 12], 0),
        (full, [2, 2, 2, 4], 0),  # no area
        (full, [-0.9, 0, 4.9, 4], 1),  # fractions are dropped
        (empty, [0, 0, 4, 4], 0),
    ):
        best, mean = soft_f1(maps, [np.array([box])])
        # 2e-6: the two constants of 1e-6 in the definition.
        assert best == pytest.approx([expected], abs=2e-6)
        assert mean.tolist() == best.tolist()


def test_what_cannot_be_used_is_refused() -> None:
    maps, box = np.zeros((1, 4, 4), np.float32), np.array([[0, 0, 2, 2]])
    for objects, message in (
        ([], "same number"),
        ([box[:0]], "no object"),
        ([box[:, ::-1]], "xmin <= xmax"),
    ):
        with pytest.raises(InputError, match=message):
            soft_f1(maps, objects)
    with pytest.raises(InputError, match=r"0\.\.1"):
        soft_f1(maps + 2, [box])
