"""PxAP, against a loop over thresholds and pixels."""

from __future__ import annotations

import numpy as np
import pytest

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.pixel_precision import (
    PixelPrecision,
    pixel_counts,
    pixel_precision,
)


def plain_score(values: list[float], on_object: list[bool], step: float) -> float:
    thresholds = [1.0] + [n * step for n in reversed(range(round(1 / step)))]
    area = recall_before = 0.0
    for threshold in thresholds:
        chosen = [hit for value, hit in zip(values, on_object, strict=True) if value >= threshold]
        if chosen:
            recall = sum(chosen) / sum(on_object)
            area += sum(chosen) / len(chosen) * (recall - recall_before)
            recall_before = recall
    return 100 * area


@pytest.mark.parametrize("step", [0.01, 0.05, 1.0])
@pytest.mark.parametrize("levels", [3, 20, 100_000])  # few levels: ties, also on thresholds
def test_random_maps_equal_plain_counting(step: float, levels: int) -> None:
    rng = np.random.default_rng(levels)
    precision = PixelPrecision(step=step)
    values: list[float] = []
    hits: list[bool] = []
    for number in range(3):  # images of different sizes, with and without objects
        shape = (2, 5 + number, 7)
        maps = (np.round(rng.random(shape) * levels) / levels).astype(np.float32)
        objects = rng.random(shape) < maps * (number != 1)
        ignore = rng.random(shape) < 0.2
        precision.add(maps, objects, ignore=ignore)
        values += maps[~ignore].tolist()
        hits += objects[~ignore].tolist()
    assert precision.score == pytest.approx(plain_score(values, hits, step), abs=1e-9)


def test_perfect_constant_and_reversed_maps() -> None:
    objects = np.zeros((2, 6, 5), np.bool_)
    objects[0, 1:3, 1:4] = objects[1, 4, 4] = True
    share = 100 * objects.mean()
    for maps, expected in (
        (objects.astype(np.float32), 100),
        (0.2 + 0.1 * objects.astype(np.float32), 100),
        (np.full(objects.shape, 0.4, np.float32), share),
        (np.zeros(objects.shape, np.float32), share),
        (np.ones(objects.shape, np.float32), share),
        (1 - objects.astype(np.float32), share),  # all objects come last, with all pixels
    ):
        precision = PixelPrecision()
        precision.add(maps, objects)
        assert precision.score == pytest.approx(expected)


def test_batches_add_up() -> None:
    rng = np.random.default_rng(0)
    maps, objects = rng.random((6, 8, 8)).astype(np.float32), rng.random((6, 8, 8)) < 0.3
    at_once, in_parts = PixelPrecision(), PixelPrecision()
    at_once.add(maps, objects)
    for i in range(0, 6, 2):
        in_parts.add(maps[i : i + 2], objects[i : i + 2])
    assert in_parts.score == at_once.score


def test_what_cannot_be_used_is_refused() -> None:
    maps, objects = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), np.bool_)
    precision = PixelPrecision()
    precision.add(maps, objects)
    with pytest.raises(InputError, match="no pixel lies on an object"):
        _ = precision.score
    with pytest.raises(InputError, match="objects is uint8"):
        precision.add(maps, objects.astype(np.uint8))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ignore is bool of shape"):
        precision.add(maps, objects, ignore=objects[:, 1:])
    with pytest.raises(InputError, match=r"map\[None\]"):
        precision.add(maps[0], objects[0])
    with pytest.raises(InputError, match=r"0\.\.1"):
        precision.add(maps - np.float32(0.1), objects)
    for step in (0, 2, np.nan):
        with pytest.raises(OptionError, match="step"):
            PixelPrecision(step=step)


def searched(values: np.ndarray, step: float) -> np.ndarray:
    """Return the place of each value by binary search among the thresholds."""
    thresholds = np.append(np.arange(0, 1, step).clip(max=1), 1.0)
    return np.searchsorted(thresholds, values.astype(np.float64), side="right") - 1


@pytest.mark.parametrize("step", [0.001, 0.01, 0.05, 1 / 3, 0.03, 0.3, 0.7, 1e-4, 1e-5, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_equal_a_search_next_to_every_threshold(step: float, dtype: type) -> None:
    thresholds = np.append(np.arange(0, 1, step).clip(max=1), 1.0).astype(dtype)
    near = [thresholds]
    for end in (dtype(-1), dtype(2)):  # two neighbours on both sides
        near.append(np.nextafter(thresholds, end))
        near.append(np.nextafter(near[-1], end))
    values = np.concatenate([*near, np.random.default_rng(0).random(5000).astype(dtype)])
    values = values[(values >= 0) & (values <= 1)][None, None]  # [1, 1, n]
    marked = np.random.default_rng(1).random(values.shape) < 0.5
    counts = pixel_counts(values, marked, step=step)
    for row, chosen in zip(counts[0], (~marked, marked), strict=True):
        expected = np.bincount(searched(values[chosen], step), minlength=len(thresholds))
        np.testing.assert_array_equal(row, expected)


def test_counts_are_per_image_and_leave_out_what_is_ignored() -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((7, 6, 9)).astype(np.float32)
    maps[2], maps[3] = 0, 1
    objects, ignore = rng.random((2, *maps.shape)) < 0.4
    counts = pixel_counts(maps, objects, ignore=ignore, step=0.1)
    expected = np.zeros((7, 2, 11), np.int64)
    for place, value in np.ndenumerate(maps):
        if not ignore[place]:
            expected[place[0], int(objects[place]), searched(value, 0.1)] += 1
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64
    assert pixel_counts(maps[:0], objects[:0]).shape == (0, 2, 1001)


def test_scores_of_many_counts_are_those_of_each() -> None:
    counts = np.random.default_rng(0).integers(0, 9, (2, 3, 2, 21))
    scores = pixel_precision(counts)
    assert scores.shape == (2, 3)
    for place in np.ndindex(2, 3):
        background, objects = counts[place]
        values = np.repeat(np.tile(np.arange(21) / 20, 2), counts[place].ravel()).tolist()
        hits = [False] * int(background.sum()) + [True] * int(objects.sum())
        # 1e-9: the sums run in another order. Off the thresholds by half a step, for rounding.
        expected = plain_score([value + 1e-6 for value in values], hits, 0.05)
        assert scores[place] == pytest.approx(expected, abs=1e-9)
    np.testing.assert_array_equal(pixel_precision(counts.astype(np.float64)), scores)


def test_scores_refuse_counts_without_objects() -> None:
    counts = np.ones((2, 2, 5), np.int64)
    counts[1, 1] = 0
    with pytest.raises(InputError, match="no pixel lies on an object"):
        pixel_precision(counts)
    with pytest.raises(InputError, match=r"\[\.\.\., 2, T\]"):
        pixel_precision(counts[0, 0])
