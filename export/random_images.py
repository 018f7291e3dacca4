"""Seeded inputs on which an explainer is compared with its original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Probes:
    """Two images of two classes each at every size."""

    sizes: Sequence[int]
    """Heights and widths in pixels."""
    channels: int
    classes: int

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield inputs of an explainer: `image` [2, C, S, S] float32, `target` [2] int64."""
        for seed, size in enumerate(self.sizes):
            images = random_images(size, channels=self.channels, seed=seed)
            yield {"image": images, "target": np.array(two_targets(self.classes, seed=seed))}


def random_images(size: int, *, channels: int, seed: int) -> NDArray[np.float32]:
    """Return two images [2, channels, size, size] in 0..255 with structure at several scales."""
    generator = np.random.default_rng(seed)
    image = np.zeros((2, channels, size, size))
    for cells in (2, 5, 16, 64, size):
        noise = generator.uniform(-1, 1, (2, channels, cells, cells))
        place = np.arange(size) * cells // size
        image += noise[:, :, place[:, None], place]
    low, high = image.min(), image.max()
    return np.asarray((image - low) / max(high - low, 1e-9) * 255, dtype=np.float32)


def two_targets(classes: int, *, seed: int) -> list[int]:
    """Return two classes, different ones if there are two."""
    first, second = np.random.default_rng(seed).permutation(max(classes, 2))[:2]
    return [int(first) % classes, int(second) % classes]
