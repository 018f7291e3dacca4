"""Localisation error, against counting cells one by one."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.localisation import (
    intersection_over_union,
    localisation_error,
    official_metric,
    shortened,
)


def cells(box: list[int]) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


def plain_error(box: list[int], objects: list[list[int]], side: int) -> float:
    """Count cells: an object is cut at the border for the intersection, whole in the union."""
    inside = cells([0, 0, side, side])
    for one in objects:
        shared = cells(box) & cells(one) & inside
        union = len(cells(box)) + len(cells(one)) - len(shared)
        if union and len(shared) / union > 0.5:
            return 0.0
    return 1.0


def random_box(rng: np.random.Generator, low: int, high: int) -> list[int]:
    (left, right), (top, bottom) = np.sort(rng.integers(low, high + 1, (2, 2)), axis=1).tolist()
    return [left, top, right, bottom]


def moved(box: list[int], rng: np.random.Generator) -> list[int]:
    """Move each side by a pixel at most."""
    left, top, right, bottom = (np.array(box) + rng.integers(-1, 2, 4)).tolist()
    return [left, top, max(left, right), max(top, bottom)]


def test_random_boxes_equal_plain_counting() -> None:
    rng, side = np.random.default_rng(0), 8
    boxes = [random_box(rng, 0, side) for _ in range(400)]
    objects = [[random_box(rng, -3, side + 3), moved(box, rng)] for box in boxes]
    errors = localisation_error(np.array(boxes), [np.array(one) for one in objects])
    expected = [plain_error(*pair, side) for pair in zip(boxes, objects, strict=True)]
    assert errors.tolist() == expected
    assert 50 < sum(expected) < 350  # both outcomes occur


@pytest.mark.parametrize(
    ("box", "objects", "error"),
    [
        ([0, 0, 4, 4], [[0, 0, 4, 4]], 0),
        ([0, 0, 4, 4], [[0, 0, 4, 8]], 1),  # one half exactly
        ([0, 0, 4, 4], [[0, 0, 4, 7.99]], 0),
        ([0, 0, 4, 4], [[-4, 0, 4, 4]], 1),  # beyond the border: its whole area counts
        ([0, 0, 4, 4], [[-3, 0, 4, 4]], 0),
        ([0, 0, 4, 4], [[9, 9, 12, 12], [0, 0, 4, 5]], 0),  # one of several is enough
        ([0, 0, 4, 4], [[4, 0, 8, 4]], 1),
        ([0, 0, 0, 0], [[0, 0, 4, 4]], 1),  # no box
        ([0, 0, 0, 0], [[0, 0, 0, 0]], 1),
        ([2, 2, 2, 6], [[2, 2, 2, 6]], 1),
    ],
)
def test_by_hand(box: list[float], objects: list[list[float]], error: int) -> None:
    assert localisation_error(np.array([box]), [np.array(objects)]).tolist() == [error]


def test_overlap_by_hand() -> None:
    overlaps = intersection_over_union(
        np.array([0, 0, 2, 2]), np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
    )
    np.testing.assert_allclose(overlaps, [1 / 7, 1, 0])


def test_what_cannot_be_used_is_refused() -> None:
    box = np.array([[0, 0, 4, 4]])
    for boxes, objects, message in (
        (box, [], "same number"),
        (box, [np.empty((0, 4))], "image 0 has no object"),
        (box, [np.array([[4, 0, 0, 4]])], "xmin <= xmax"),
        (box, [np.array([[0, 0, np.nan, 4]])], "xmin <= xmax"),
        (box[:, :3], [box], r"expected \[n, 4\]"),
    ):
        with pytest.raises(InputError, match=message):
            localisation_error(boxes, objects)


def test_official_metric_needs_box_and_class() -> None:
    boxes = np.array([[0, 0, 4, 4]] * 4)
    objects = [np.array([[0, 0, 4, 4]]), np.array([[8, 8, 9, 9]])] * 2
    correct = np.array([True, True, False, False])
    assert official_metric(boxes, objects, correct).tolist() == [0, 1, 1, 1]
    for wrong in (correct[:3], correct.astype(float)):
        with pytest.raises(InputError, match="correct is"):
            official_metric(boxes, objects, wrong)


def test_released_boxes_miss_the_last_row_and_column() -> None:
    rng, side = np.random.default_rng(1), 8
    boxes = [random_box(rng, 0, side) for _ in range(400)]
    objects = [[moved(box, rng)] for box in boxes]
    # The box of the cells that remain when the last column and row are taken away.
    expected = [
        plain_error([left, top, max(left, right - 1), max(top, bottom - 1)], marked, side)
        for (left, top, right, bottom), marked in zip(boxes, objects, strict=True)
    ]
    arrays = [np.array(one) for one in objects]
    assert localisation_error(np.array(boxes), arrays, variant="released").tolist() == expected
    assert localisation_error(np.array(boxes), arrays).tolist() != expected
    right = np.ones(400, np.bool_)
    assert official_metric(np.array(boxes), arrays, right, variant="released").tolist() == expected


def test_released_by_hand() -> None:
    box, marked = np.array([[2, 2, 6, 6]]), [np.array([[2, 2, 6, 6]])]
    assert localisation_error(box, marked, variant="released").tolist() == [0]  # 9 of 16
    assert shortened(box).tolist() == [[2, 2, 5, 5]]
    assert shortened(np.array([[2, 2, 3, 6], [0, 0, 0, 0]])).tolist() == [[2, 2, 2, 5], [0] * 4]
    with pytest.raises(OptionError, match="variant"):
        localisation_error(box, marked, variant="other")  # type: ignore[arg-type]


def test_overlaps_of_many_boxes_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(rng, 0, 9) for _ in range(7)])
    objects = np.array([random_box(rng, -2, 11) for _ in range(5)])
    together = intersection_over_union(boxes, objects)
    assert together.shape == (7, 5)
    np.testing.assert_array_equal(
        together, [intersection_over_union(box, objects) for box in boxes]
    )
