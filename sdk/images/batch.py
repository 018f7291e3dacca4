"""Images of one size as a model takes them, with the classes asked of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B images and N questions: an image and a class each. Results have one row per question."""

    images: Any
    """[B, C, H, W] float32 in 0..255; with an engine on a GPU also a `DeviceArray`, of that form or
    uint8 [B, H, W, C]."""
    targets: Indices  # [N], -1 for the predicted class
    image_index: Indices  # [N] ascending, the number of the image that each question is about

    @classmethod
    def single(cls, images: Array, targets: Indices) -> Self:
        """Ask for one class per image: images [B, C, H, W], targets [B]."""
        return cls(images, targets, np.arange(len(images)))
