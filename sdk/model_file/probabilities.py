"""From logits to probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from klieg.model_file.explainer_file import Probability


def probabilities(logits: NDArray[np.float32], kind: Probability) -> NDArray[np.float32]:
    """Turn logits [B, classes] into probabilities [B, classes] in 0..1."""
    exact = logits.astype(np.float64)
    if kind == "sigmoid":
        return (0.5 * (1 + np.tanh(exact / 2))).astype(np.float32)  # cannot overflow
    powers = np.exp(exact - exact.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
