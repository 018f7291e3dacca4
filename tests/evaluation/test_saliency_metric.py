"""The saliency metric."""

from __future__ import annotations

import math

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.evaluation.saliency_metric import saliency_metric


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
