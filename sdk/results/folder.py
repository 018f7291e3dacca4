"""Results as files: pictures and the map of every image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError
from klieg.kernels.device.array import DeviceArray
from klieg.maps.regions import bounding_boxes
from klieg.methods.table import find_method
from klieg.results.lettering import sheet
from klieg.results.overlay import LONGEST_SIDE, overlay
from klieg.results.views import contact_sheet
from klieg.storage.atomic import atomic_path

if TYPE_CHECKING:
    from klieg.explanation import Explanation
    from klieg.maps.regions import Rule

COLUMNS: Final = 4
"""Methods beside each other in one row."""


@dataclass(frozen=True)
class SavedResult:
    """The files of one image."""

    overlay: Path
    """PNG with the map over the photo, a legend and the class."""
    saliency: Path
    """`.npy` with the map on the photo's pixel grid [H, W] float32 in 0..1."""
    views: Path | None
    """PNG with the photo, its salient part alone, removed and inpainted, if asked for."""
    comparison: Path | None
    """PNG with the overlays of all methods beside each other, if there are several."""


class ResultFolder:
    """A folder that results are written to, one complete file after another."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._taken: set[str] = set()

    def save(self, explanation: Explanation, i: int, *, views: Rule | None = None) -> SavedResult:
        """Write the files of image i; images of the same name get numbers.

        Args:
            explanation: Of a batch.
            i: Number of the image in the batch.
            views: How the map is cut for the views of the photo; None for no views.
        """
        name = self._unused(explanation.names[i], _endings(views))
        return self._write(explanation, i, name, views, None)

    def compare(
        self, explanations: Sequence[Explanation], i: int, *, views: Rule | None = None
    ) -> list[SavedResult]:
        """Write the files of image i for several methods, and all its overlays in one picture.

        Args:
            explanations: Of the same batch, one per method.
            i: Number of the image in the batch.
            views: See `save`.

        Returns:
            One result per method, its files named NAME-METHOD; NAME.png has the overlays.
        """
        endings = [f"-{one.method}{ending}" for one in explanations for ending in _endings(views)]
        name = self._unused(explanations[0].names[i], ["", *endings])
        tiles = [_overlay(one, i, one.on_image(i), LONGEST_SIDE // 2) for one in explanations]
        comparison = self._folder / f"{name}.png"
        write_png(comparison, sheet(tiles, columns=min(len(tiles), COLUMNS)))
        return [
            self._write(one, i, f"{name}-{one.method}", views, comparison) for one in explanations
        ]

    def _write(
        self,
        explanation: Explanation,
        i: int,
        name: str,
        views: Rule | None,
        comparison: Path | None,
    ) -> SavedResult:
        saliency = explanation.on_image(i)
        picture, array, three = (
            self._folder / f"{name}{ending}" for ending in (".png", ".npy", "-views.png")
        )
        write_png(picture, _overlay(explanation, i, saliency, LONGEST_SIDE))
        if views is not None:
            write_png(three, _views(explanation, i, views))
        with atomic_path(array) as temporary:
            np.save(temporary, saliency)
        return SavedResult(picture, array, None if views is None else three, comparison)

    def _unused(self, image: str, endings: Sequence[str]) -> str:
        """Return a name of which no file is taken, and take its files."""
        stem = Path(image).stem
        candidate, number = stem, 1
        while self._taken & (wanted := {f"{candidate}{ending}" for ending in endings}):
            number += 1
            candidate = f"{stem}-{number}"
        self._taken |= wanted
        return candidate


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture [H, W, 3] RGB; the file appears complete or not at all."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _endings(views: Rule | None) -> tuple[str, ...]:
    """Return what the names of an image's files have before the suffix."""
    return ("",) if views is None else ("", "-views")


def _overlay(
    explanation: Explanation, i: int, saliency: NDArray[np.float32], longest_side: int
) -> NDArray[np.uint8]:
    return overlay(
        _as_bytes(explanation.photos[i]),
        _brightened(saliency) if find_method(explanation.method).pixelwise else saliency,
        title=_title(explanation, i),
        subtitle=_subtitle(explanation, i),
        longest_side=longest_side,
    )


def _views(explanation: Explanation, i: int, rule: Rule) -> NDArray[np.uint8]:
    region = explanation.binary_on_image(i, rule=rule)  # [H, W]
    (box,) = bounding_boxes(region[None])
    return contact_sheet(
        _as_bytes(explanation.photos[i]),
        region,
        box,
        title=_title(explanation, i),
        subtitle=f"{_subtitle(explanation, i)}, {region.mean():.0%} salient (rule: {rule})",
    )


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


def _as_bytes(photo: NDArray[Any] | DeviceArray) -> NDArray[np.uint8]:
    if isinstance(photo, DeviceArray):
        raise InputError(
            "the photo is on a GPU, and pictures are drawn on the host: explain host arrays, or "
            "draw `Explanation.maps` yourself"
        )
    return np.asarray(np.rint(photo), dtype=np.uint8)
