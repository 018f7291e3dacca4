"""Results as files: an overlay picture and the map of every image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.atomic import atomic_path
from klieg.methods.table import find_method
from klieg.rendering import overlay

if TYPE_CHECKING:
    from klieg.explanation import Explanation


@dataclass(frozen=True)
class SavedResult:
    """The files of one image."""

    overlay: Path
    """PNG with the map over the photo, a legend and the class."""
    saliency: Path
    """`.npy` with the map on the photo's pixel grid [H, W] float32 in 0..1."""


class ResultFolder:
    """A folder that results are written to, one complete file after another."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._taken: set[str] = set()

    def save(self, explanation: Explanation, i: int) -> SavedResult:
        """Write the files of image i; images of the same name get numbers."""
        name = self._unused(Path(explanation.names[i]).stem)
        saliency = explanation.on_image(i)
        result = SavedResult(self._folder / f"{name}.png", self._folder / f"{name}.npy")
        picture = overlay(
            _as_bytes(explanation.photos[i]),
            _brightened(saliency) if find_method(explanation.method).pixelwise else saliency,
            title=_title(explanation, i),
            subtitle=_subtitle(explanation, i),
        )
        write_png(result.overlay, picture)
        with atomic_path(result.saliency) as temporary:
            np.save(temporary, saliency)
        return result

    def _unused(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}-{number}"
        self._taken.add(candidate)
        return candidate


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture [H, W, 3] RGB; the file appears complete or not at all."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _title(explanation: Explanation, i: int) -> str:
    target = int(explanation.targets[i])
    probability = float(explanation.probabilities[i, target])
    return f"{explanation.class_name(target)}  {probability:.1%}"


def _subtitle(explanation: Explanation, i: int) -> str:
    parts = [find_method(explanation.method).title]
    if len(explanation.scales) > 1:
        parts.append(f"{explanation.scales_used[i].sum()} of {len(explanation.scales)} scales")
    predicted = int(explanation.logits[i].argmax())
    if predicted != explanation.targets[i]:
        parts.append(f"predicted: {explanation.class_name(predicted)}")
    if find_method(explanation.method).pixelwise:
        parts.append("brightest 1 % saturated")
    if explanation.degenerate[i]:
        parts.append("no positive evidence")
    return ", ".join(parts)


def _brightened(saliency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a map of single bright pixels for the eye: 1 % of what is not 0 saturates."""
    shown = saliency[saliency > 0]
    if not shown.size:
        return saliency
    return np.asarray(np.minimum(saliency / np.quantile(shown, 0.99), 1), dtype=np.float32)


def _as_bytes(photo: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(photo), dtype=np.uint8)
