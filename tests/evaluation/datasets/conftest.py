"""Photos and masks for the small data sets that the tests here write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

Save = Callable[[Path, np.ndarray], Path]


@pytest.fixture
def save() -> Save:
    """Write [H, W, 3] RGB or grey [H, W] to a file; missing folders are made."""

    def write(path: Path, values: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = values[..., ::-1] if values.ndim == 3 else values
        assert cv2.imwrite(str(path), np.ascontiguousarray(stored))
        return path

    return write


@pytest.fixture
def photo() -> np.ndarray:
    """[5, 8, 3] uint8, odd and not square."""
    return np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
