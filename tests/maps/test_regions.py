"""Binary maps and boxes, against slow forms that share nothing with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klieg import Explainer
from klieg.errors import InputError, OptionError
from klieg.maps.regions import binarise, bounding_boxes, thresholds

SHAPES = [(1, 1), (1, 9), (7, 1), (5, 8), (16, 16)]


def random_maps(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth, skewed, coarse (with ties), constant and empty maps [B, H, W]."""
    rng = np.random.default_rng(seed)
    noise = rng.random((4, *shape)).astype(np.float32)
    return np.stack(
        [
            noise[0],
            noise[1] ** 4,
            noise[2] ** 0.25,
            np.round(noise[3] * 3) / 3,
            np.zeros(shape, np.float32),
            np.ones(shape, np.float32),
            np.full(shape, 0.3, np.float32),
        ]
    )


def plain_binary(values: list[float], rule: str) -> list[bool]:
    mean = sum(values) / len(values)
    if rule == "mean":
        return [value > mean + 1e-12 for value in values]  # the sum is rounded
    k = 1 + int((len(values) - 1) * (1 - mean) + 0.5)
    cut = min(max(sorted(values)[k - 1], 1e-6), 1 - 1e-6)
    return [value > cut for value in values]


def plain_box(binary: np.ndarray) -> tuple[int, int, int, int]:
    """Grow components pixel by pixel, in the order in which reading meets them."""
    left = {(int(y), int(x)) for y, x in np.argwhere(binary)}
    largest: set[tuple[int, int]] = set()
    for start in sorted(left):
        component, border = set(), {start} & left
        while border:
            y, x = border.pop()
            left.discard((y, x))
            component.add((y, x))
            border |= {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
        if len(component) > len(largest):
            largest = component
    if not largest:
        return 0, 0, 0, 0
    rows, columns = zip(*largest, strict=True)
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["mean", "quantile"])
def test_binary_maps_equal_the_definition(shape: tuple[int, int], rule: str) -> None:
    maps = random_maps(shape)
    binary = binarise(maps, rule=rule)
    assert binary.dtype == np.bool_
    for one, kept in zip(maps, binary, strict=True):
        assert kept.ravel().tolist() == plain_binary(one.ravel().tolist(), rule)


@pytest.mark.parametrize("value", np.linspace(0, 1, 41, dtype=np.float32))
def test_nothing_is_above_the_mean_of_a_constant_map(value: float) -> None:
    assert not binarise(np.full((2, 37, 53), value, np.float32)).any()


def test_the_share_by_quantile_is_the_mean() -> None:
    maps = np.random.default_rng(0).random((3, 50, 50)).astype(np.float32) ** 3
    share = binarise(maps, rule="quantile").mean(axis=(1, 2))
    np.testing.assert_allclose(share, maps.mean(axis=(1, 2)), atol=1 / 2500)
    assert (binarise(maps).mean(axis=(1, 2)) > share + 0.04).all()  # the other rule keeps more


@pytest.mark.parametrize("density", [0.1, 0.4, 0.5, 0.6, 0.9])
def test_boxes_equal_plain_search(density: float) -> None:
    rng = np.random.default_rng(int(density * 10))
    for height, width in [*SHAPES, (23, 41)]:
        binary = rng.random((12, height, width)) < density
        boxes = bounding_boxes(binary)
        assert [tuple(box) for box in boxes.tolist()] == [plain_box(one) for one in binary]


def test_boxes_by_hand() -> None:
    binary = np.zeros((5, 4, 6), dtype=np.bool_)
    binary[1] = True
    binary[2, 1, 2:4] = binary[2, 3, 5] = True
    binary[3, [0, 1, 2], [0, 1, 2]] = True  # corners do not join
    binary[4, 0, 3:5] = binary[4, 2:, 0] = True  # equal: the first one
    assert bounding_boxes(binary).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 6, 4],
        [2, 1, 4, 2],
        [0, 0, 1, 1],
        [3, 0, 5, 1],
    ]
    assert bounding_boxes(binary[:0]).shape == (0, 4)
    left, top, right, bottom = bounding_boxes(binary[2:3])[0]
    assert binary[2, top:bottom, left:right].sum() == 2


def test_what_cannot_be_used_is_refused() -> None:
    maps = random_maps((4, 4))
    with pytest.raises(OptionError, match="'median', expected one of mean, quantile"):
        binarise(maps, rule="median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"map\[None\]"):
        thresholds(maps[0])
    for bad in (np.nan, -0.1, 1.1):
        maps[0, 0, 0] = bad
        with pytest.raises(InputError, match=r"0\.\.1"):
            thresholds(maps)
    with pytest.raises(InputError, match="binarise"):
        bounding_boxes(maps)  # type: ignore[arg-type]


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("rule", ["mean", "quantile"])
def test_explanations_have_boxes(fit: str, rule: str, small_explainer: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (*s, 3), dtype=np.uint8) for s in [(96, 160), (70, 40)]]
    with Explainer(small_explainer) as explainer:
        explanation = explainer.explain(photos, method="gradcam", fit=fit)
    binary, boxes = explanation.binary(rule=rule), explanation.boxes(rule=rule)
    np.testing.assert_array_equal(binary, binarise(explanation.maps, rule=rule))
    np.testing.assert_array_equal(boxes, bounding_boxes(binary))
    for i, (photo, placement) in enumerate(zip(photos, explanation.placements, strict=True)):
        large = explanation.binary_on_image(i, rule=rule)
        assert large.shape == photo.shape[:2]
        # The same places are salient, up to the pixels at the outline.
        again = placement.to_photo(binary[i].astype(np.float32))
        assert large[again > 0.99].mean() > 0.95
        assert large[again < 0.01].mean() < 0.05
        seen = placement.seen
        outside = np.ones(large.shape, np.bool_)
        outside[seen.slices] = False
        assert not large[outside].any()
        box = explanation.box_on_image(i, rule=rule)
        assert tuple(box) == plain_box(large)
