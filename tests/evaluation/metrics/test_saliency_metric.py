"""The saliency metric."""

from __future__ import annotations

import math

import numpy as np
import pytest

from klieg.errors import InputError, OptionError
from klieg.evaluation.metrics.saliency_metric import box_areas, enlarged_crops, saliency_metric


def test_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    areas = [0, 0.01, 0.05, 0.5, 1, *rng.random(20)]
    chances = [1, 0.5, 1e-30, 1, 1, *rng.random(20)]
    expected = [
        (math.log(area) if area > 0.05 else math.log(1 / 20)) - math.log(chance)
        for area, chance in zip(areas, chances, strict=True)
    ]
    np.testing.assert_allclose(saliency_metric(areas, chances), expected, rtol=1e-12, atol=1e-12)


def test_the_whole_image_and_full_confidence_give_0() -> None:
    assert saliency_metric([1.0], [1.0]).tolist() == [0.0]


def test_no_confidence_is_infinitely_bad() -> None:
    assert saliency_metric([0.5], [0.0]).tolist() == [math.inf]


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(InputError, match="one of each"):
        saliency_metric([0.5, 0.5], [1.0])
    for area, chance in ((0.5, 90), (50176, 0.5), (np.nan, 0.5), (-0.1, 0.5)):
        with pytest.raises(InputError, match=r"outside 0\.\.1"):
            saliency_metric([area], [chance])


def test_areas_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [2, 3, 7, 5], [4, 4, 4, 9], [1, 1, 2, 9]])
    assert box_areas(boxes, 10).tolist() == [1, 0.1, 0, 0.08]
    assert box_areas(boxes, 10, variant="released").tolist() == [0.81, 0.04, 0, 0]
    with pytest.raises(InputError, match=r"0\.\.9"):
        box_areas(boxes, 9)
    with pytest.raises(OptionError, match="variant"):
        box_areas(boxes, 10, variant="other")  # type: ignore[arg-type]


def cubic(distance: float) -> float:
    """Return the weight of Keys' cubic convolution with a = -0.75, which OpenCV uses."""
    x, a = abs(distance), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def plain_enlarged(part: list[list[float]], size: int) -> list[list[float]]:
    """Interpolate pixel by pixel; beyond the border the last pixel goes on."""

    def weights(place: int, count: int) -> list[tuple[int, float]]:
        centre = (place + 0.5) * count / size - 0.5
        first = math.floor(centre) - 1
        return [(min(max(n, 0), count - 1), cubic(centre - n)) for n in range(first, first + 4)]

    return [
        [
            sum(
                down * across * part[row][column]
                for row, down in weights(y, len(part))
                for column, across in weights(x, len(part[0]))
            )
            for x in range(size)
        ]
        for y in range(size)
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_equal_plain_interpolation(channels: int) -> None:
    rng, size = np.random.default_rng(0), 12
    boxes = np.array([[0, 0, 12, 12], [2, 3, 9, 8], [11, 0, 12, 5], [4, 4, 4, 9], [5, 7, 6, 8]])
    images = rng.uniform(0, 255, (len(boxes), channels, size, size)).astype(np.float32)
    fill = rng.uniform(0, 255, (channels, 1, 1)).astype(np.float32)
    crops = enlarged_crops(images, boxes, fill=fill)
    assert crops.dtype == np.float32
    assert crops.max() > images.max()  # overshoot stays
    for crop, image, (left, top, right, bottom) in zip(crops, images, boxes.tolist(), strict=True):
        if left == right:
            np.testing.assert_array_equal(crop, np.broadcast_to(fill, crop.shape))
            continue
        expected = [plain_enlarged(c[top:bottom, left:right].tolist(), size) for c in image]
        # 1e-3 of 255: OpenCV's weights are float32.
        np.testing.assert_allclose(crop, expected, atol=1e-3)


def test_crops_refuse_what_cannot_be_cut() -> None:
    images, fill = np.zeros((1, 3, 8, 8), np.float32), np.zeros((3, 1, 1), np.float32)
    for pictures, boxes, message in (
        (images, [[0, 0, 9, 8]], r"0\.\.8"),
        (images, [[-1, 0, 8, 8]], r"0\.\.8"),
        (images, [[4, 0, 2, 8]], "xmin <= xmax"),
        (images, [[0, 0, 8, 8]] * 2, "same number"),
        (images[0], [[0, 0, 8, 8]], r"image\[None\]"),
        (images[..., 1:], [[0, 0, 4, 4]], r"\[N, C, S, S\]"),
    ):
        with pytest.raises(InputError, match=message):
            enlarged_crops(pictures, np.array(boxes), fill=fill)
