"""Passes through an instrumented classifier, and what a method makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from klieg.backends import Backend
from klieg.errors import NumericalError

Array = NDArray[np.float32]

PIXELS_PER_PASS: Final = 1_000_000
"""A processor gains nothing from larger batches than about this, but memory grows with them."""


@dataclass(frozen=True)
class Pass:
    """One pass of a batch at one size."""

    logits: Array  # [B, classes]
    activation: list[Array]  # per image [K, h, w]
    gradient: list[Array]  # per image [K, h, w], or [K, 1, 1] where it is the same everywhere


@dataclass(frozen=True)
class RawMaps:
    """What a method returns for a batch."""

    raw: Array  # [B, S, S] before relu and scaling
    logits: Array  # [B, classes] at the first size
    targets: NDArray[np.int64]  # [B] the classes explained
    scales_used: NDArray[np.bool_]  # [B, T]


class Passes:
    """Runs batches through a backend, in parts that keep memory flat, and checks the answers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __call__(self, images: Array, targets: NDArray[np.int64]) -> Pass:
        """Run images [B, C, H, W] in 0..255 with targets [B], -1 for the predicted class.

        Raises:
            NumericalError: a logit is NaN or infinite.
        """
        batch, _, height, width = images.shape
        part = max(1, PIXELS_PER_PASS // (height * width))
        logits: list[Array] = []
        activation: list[Array] = []
        gradient: list[Array] = []
        for start in range(0, batch, part):
            rows = slice(start, start + part)
            outputs = self._backend.run(
                images[rows], targets[rows], ("logits", "activation", "gradient")
            )
            _check_finite(outputs[0], start, height, width)
            logits.append(outputs[0])
            activation.extend(outputs[1])
            gradient.extend(outputs[2])
        return Pass(np.concatenate(logits), activation, gradient)


def chosen_classes(logits: Array, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the classes asked for [B], the predicted ones where none was asked for (-1)."""
    return np.where(targets < 0, logits.argmax(axis=1), targets)


def _check_finite(logits: Array, start: int, height: int, width: int) -> None:
    # A NaN can leave the gradient finite and plausible, so the logits are what to look at.
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        raise NumericalError(
            f"the model returned NaN or infinite logits for image {start + int(bad[0])} of the "
            f"batch at {height} x {width} pixels: the model or the image is outside its range"
        )
