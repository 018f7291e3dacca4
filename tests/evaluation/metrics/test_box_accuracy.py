"""MaxBoxAcc V2, against flood fill at every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.box_accuracy import box_hits, max_box_accuracy


def plain_boxes(above: set[tuple[int, int]]) -> list[list[int]]:
    """Return the boxes of all groups of pixels (y, x) that touch, also at corners."""
    boxes, left_over = [], set(above)
    while left_over:
        group, waiting = [], [left_over.pop()]
        while waiting:
            y, x = waiting.pop()
            group.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left_over
            left_over -= around
            waiting += around
        rows, columns = zip(*group, strict=True)
        boxes.append([min(columns), min(rows), max(columns) + 1, max(rows) + 1])
    return boxes


def plain_overlap(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (area - shared) if area > shared else 0.0


def plain_hits(one: np.ndarray, objects: list[list[float]], step: float) -> list[list[bool]]:
    levels = [[int(np.float32(255) * value) for value in row] for row in one]
    peak = max(map(max, levels))
    best = []
    for threshold in np.arange(0, 1, step):
        cut = int(threshold * peak)
        above = {(y, x) for y, row in enumerate(levels) for x, v in enumerate(row) if v > cut}
        overlaps = [plain_overlap(b, o) for b in plain_boxes(above) for o in objects]
        best.append(max(overlaps, default=0.0))
    return [[overlap >= least for overlap in best] for least in (0.3, 0.5, 0.7)]


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("shape", [(12, 17), (16, 16), (1, 9)])
@pytest.mark.parametrize("levels", [3, 255])
def test_random_maps_equal_flood_fill(batch: int, shape: tuple[int, int], levels: int) -> None:
    rng = np.random.default_rng(batch + levels)
    height, width = shape
    y, x = np.mgrid[:height, :width]
    maps, objects = [], []
    for number in range(batch):
        hills = [
            np.exp(-((y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2) / 8)
            for _ in range(3)
        ]
        one = sum(hills) / 4 + 0.2 * rng.random(shape)
        maps.append(np.round(one / one.max() * rng.uniform(0.3, 1) * levels) / levels)
        boxes = np.sort(rng.uniform(-2, [width + 2, height + 2], (number % 3 + 1, 2, 2)), axis=1)
        objects.append(boxes.reshape(-1, 4))
    arrays = np.array(maps, np.float32)
    hits = box_hits(arrays, objects, step=0.05)
    expected = [plain_hits(m, o.tolist(), 0.05) for m, o in zip(arrays, objects, strict=True)]
    assert hits.shape == (batch, 3, 20)
    np.testing.assert_array_equal(hits, expected)


def test_enough_hits_and_misses_are_compared() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((20, 10, 12)).astype(np.float32) ** 2
    objects = [np.array([[x, y, x + w, y + h]]) for x, y, w, h in rng.integers(1, 8, (20, 4))]
    for one, ((left, top, right, bottom),) in zip(maps, objects, strict=True):
        one[top:bottom, left:right] = 0.5 + 0.5 * one[top:bottom, left:right]
    hits = box_hits(maps, objects)
    expected = [plain_hits(m, o.tolist(), 0.01) for m, o in zip(maps, objects, strict=True)]
    np.testing.assert_array_equal(hits, expected)
    assert 100 < hits[:, 0].sum() < 1900
    assert 20 < hits[:, 2].sum() < 1000


def test_by_hand() -> None:
    one = np.zeros((1, 10, 10), np.float32)
    one[0, 2:6, 2:6], one[0, 3:5, 3:5] = 0.4, 0.8
    (hit,) = box_hits(one, [np.array([[3, 3, 5, 5]])], step=0.25)
    # Cuts at 0, 51, 102 and 153 of 204: 16, 16, 4 and 4 pixels (0.4 is 102, not above 102).
    assert hit.tolist() == [[False, False, True, True]] * 3
    ring = np.ones((1, 9, 9), np.float32)
    ring[0, 2:7, 2:7] = 0
    ring[0, 4, 4] = 1  # an island in a hole is a component of its own
    assert box_hits(ring, [np.array([[4, 4, 5, 5]])], step=1.0).all()
    diagonal = np.eye(4, dtype=np.float32)[None]  # corners touch
    assert box_hits(diagonal, [np.array([[0, 0, 4, 4]])], step=1.0).all()
    exact = np.ones((1, 10, 10), np.float32)
    for side, expected in ((3, [True, False, False]), (5, [True, True, False]), (7, [True] * 3)):
        (hit,) = box_hits(exact, [np.array([[0, 0, 10, side]])], step=1.0)  # IoU of exactly this
        assert hit[:, 0].tolist() == expected


def test_nothing_marked_or_nothing_salient_is_no_hit() -> None:
    full, empty = np.ones((1, 4, 4), np.float32), np.zeros((1, 4, 4), np.float32)
    for maps, boxes in (
        (full, np.empty((0, 4))),
        (full, np.array([[1, 1, 1, 3]])),
        (full, np.array([[7, 7, 9, 9]])),
        (empty, np.array([[0, 0, 4, 4]])),
    ):
        assert not box_hits(maps, [boxes]).any()


def test_accuracy_takes_the_best_threshold_of_each_overlap() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((2, 5, 9, 3, 4)) < 0.5  # [2, 5] data sets of 9 images
    accuracies = max_box_accuracy(hits.sum(axis=2), np.full((2, 5), 9))
    for place in np.ndindex(2, 5):
        shares = [[sum(hits[place][:, d, t]) / 9 for t in range(4)] for d in range(3)]
        # 1e-12: rounding.
        expected = 100 * sum(map(max, shares)) / 3
        assert accuracies[place] == pytest.approx(expected, rel=1e-12)
    assert max_box_accuracy(np.array([[0, 4], [2, 1], [0, 0]]), 4) == pytest.approx(50)


def test_what_cannot_be_used_is_refused() -> None:
    maps, box = np.zeros((1, 4, 4), np.float32), np.array([[0, 0, 4, 4]])
    for one, objects, message in (
        (maps, [], "same number"),
        (maps - np.float32(1), [box], r"0\.\.1"),
        (maps, [box[:, ::-1]], "xmin <= xmax"),
    ):
        with pytest.raises(InputError, match=message):
            box_hits(one, objects)
    for step in (0, 2, np.nan):
        with pytest.raises(OptionError, match="step"):
            box_hits(maps, [box], step=step)
    with pytest.raises(InputError, match="3, T"):
        max_box_accuracy(np.zeros((2, 5)), 1)
    with pytest.raises(InputError, match="count"):
        max_box_accuracy(np.zeros((3, 5)), 0)
