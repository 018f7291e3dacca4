"""Classes and counted scales by NumPy: the tests' truth for `gate`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def gate_plain(
    logits: NDArray[np.float32], asked: Indices, targets: Indices | None
) -> tuple[Indices, NDArray[np.bool_], NDArray[np.bool_]]:
    """Decide one step.

    Args:
        logits: [B, classes].
        asked: [B * n], -1 for the predicted class.
        targets: [B * n] of the first step; None at the first step.

    Returns:
        targets [B * n], used [B * n] and finite [B].
    """
    predicted = np.repeat(logits.argmax(axis=1), len(asked) // len(logits))
    if targets is None:
        targets = np.asarray(np.where(asked < 0, predicted, asked), dtype=np.int64)
    used = (asked >= 0) | (predicted == targets)
    return targets, used, np.asarray(np.isfinite(logits).all(axis=1))
