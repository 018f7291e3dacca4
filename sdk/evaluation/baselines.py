"""Baselines: maps that know nothing of the classifier, to compare methods with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]

BASELINE_SEED: Final = 0


def centre(image: Map, number: int) -> Map:
    """Return a map [S, S] that is 1 on a centred square of half the area, 0 elsewhere."""
    size = image.shape[1]
    margin = round(size * (1 - 0.5**0.5) / 2)
    square = np.zeros((size, size), dtype=np.float32)
    square[margin : size - margin, margin : size - margin] = 1
    return square


def gaussian(image: Map, number: int) -> Map:
    """Return a bell [S, S] round the centre, its standard deviation a quarter of the side."""
    size = image.shape[1]
    distance = (np.arange(size) - (size - 1) / 2) / (size / 4)
    bell = np.exp(-(distance**2) / 2)
    return np.asarray(np.outer(bell, bell), dtype=np.float32)


def random(image: Map, number: int) -> Map:
    """Return independent noise [S, S], uniform in 0..1; the same for a photo in every run."""
    generator = np.random.default_rng([BASELINE_SEED, number])
    return generator.random(image.shape[1:], dtype=np.float32)


def edges(image: Map, number: int) -> Map:
    """Return the strength [S, S] of edges (Sobel, channels averaged), scaled to its maximum."""
    grey = image.mean(axis=0)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return np.asarray(strength / max(float(strength.max()), 1e-6), dtype=np.float32)


def full(image: Map, number: int) -> Map:
    """Return 1 everywhere [S, S]."""
    return np.ones(image.shape[1:], dtype=np.float32)


Baseline = Callable[[Map, int], Map]
"""(image [C, S, S] in 0..255, number of the photo in its data set) -> map [S, S] in 0..1"""

BASELINES: Final[Mapping[str, Baseline]] = MappingProxyType(
    {"centre": centre, "gaussian": gaussian, "random": random, "edges": edges, "full": full}
)
