"""The instrumented classifier as methods ask it, and what a method makes of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from klieg.backends import Backend
from klieg.errors import NumericalError
from klieg.images.batch import Array, Batch, Indices
from klieg.model_file.explainer_file import ExplainerInfo
from klieg.model_file.outputs import OUTPUTS

PIXELS_PER_PASS: Final = 1_000_000
"""A processor gains nothing from larger batches than about this, but memory grows with them."""


@dataclass(frozen=True)
class ForwardResult:
    """One pass of a batch at one size, with one row per question."""

    logits: Array  # [N, classes]
    activation: list[Array]  # N times [K, h, w]; questions about one image share it
    gradient: list[Array]  # N times [K, h, w], or [K, 1, 1] where it is the same everywhere


@dataclass(frozen=True)
class RawMaps:
    """What a method returns for a batch."""

    raw: Array  # [N, S, S] before relu and scaling
    logits: Array  # [N, classes] at the first size
    targets: Indices  # [N] the classes explained
    scales_used: NDArray[np.bool_]  # [N, T]


@dataclass(frozen=True)
class Maps(RawMaps):
    """Raw maps made into maps."""

    maps: Array  # [N, S, S] in 0..1
    degenerate: NDArray[np.bool_]  # [N]


class Model:
    """Runs batches through a backend, in parts that keep memory flat, and checks the answers."""

    def __init__(
        self, backend: Backend, info: ExplainerInfo, *, several_targets: bool = False
    ) -> None:
        """Wrap an engine.

        Args:
            backend: The engine.
            info: What the explainer file says about itself.
            several_targets: True if the file takes several classes per image in one pass.
        """
        self._backend = backend
        self._several_targets = several_targets
        self.probability: Final = info.probability
        self.mean_colour: Array = np.array(info.mean, dtype=np.float32)[:, None, None] * 255
        """[C, 1, 1] in 0..255"""

    def __call__(self, batch: Batch) -> ForwardResult:
        """Compute activation and gradient at the layer.

        Raises:
            NumericalError: a logit is NaN or infinite.
        """
        logits, activation, gradient = self.run(batch, ("logits", "activation", "gradient"))
        return ForwardResult(np.stack(logits), activation, gradient)

    def logits(self, images: Array) -> Array:
        """Return the logits [B, classes] of images [B, C, H, W]."""
        batch = Batch.single(images, np.full(len(images), -1))
        return np.stack(self.run(batch, ("logits",))[0])

    def run(self, batch: Batch, outputs: Sequence[str]) -> list[list[Array]]:
        """Compute outputs of the file, the first of them the logits.

        Where the file allows it, several questions about one image share its forward pass.

        Returns:
            Per output a list of N arrays, one per question.

        Raises:
            NumericalError: a logit or a mask is NaN or infinite.
        """
        engine_rows = self.engine_rows(batch, outputs)
        found: list[list[Array]] = [[] for _ in outputs]
        part = images_per_pass(*batch.images.shape[2:])
        for start in range(0, len(engine_rows.images), part):
            rows = slice(start, start + part)
            index = engine_rows.images[rows]
            results = self._backend.run(
                batch.images[rows] if engine_rows.in_order else batch.images[index],
                engine_rows.targets[rows].ravel(),
                outputs,
            )
            for name, values, result in zip(outputs, found, results, strict=True):
                if OUTPUTS[name].checked:
                    _check_finite(name, result, index, batch.images.shape)
                values.extend(result)
        each = engine_rows.targets.shape[1]
        rows_of = {"image": engine_rows.row, "target": engine_rows.row * each + engine_rows.place}
        return [
            [values[row] for row in rows_of[OUTPUTS[name].rows]]
            for name, values in zip(outputs, found, strict=True)
        ]

    def engine_rows(self, batch: Batch, outputs: Sequence[str]) -> EngineRows:
        """Arrange the questions of a batch as the engine's input."""
        count, index = batch.images.shape[0], batch.image_index
        asked = [OUTPUTS[name] for name in outputs]
        if all(output.rows == "image" for output in asked):
            targets = np.full((count, 1), -1)
            return EngineRows(np.arange(count), targets, True, index, np.zeros_like(index))
        # What has the image's form is summed over the classes of an image.
        if self._several_targets and all(output.form != "image" for output in asked):
            first = np.searchsorted(index, np.arange(count))  # [B] first question of each
            place = np.arange(len(index)) - first[index]
            # Images with fewer questions than others repeat their first one.
            targets = np.repeat(batch.targets[first][:, None], place.max() + 1, axis=1)
            targets[index, place] = batch.targets
            return EngineRows(np.arange(count), targets, True, index, place)
        rows = np.arange(len(index))
        in_order = np.array_equal(index, np.arange(count))
        return EngineRows(index, batch.targets[:, None], in_order, rows, np.zeros_like(rows))


@dataclass(frozen=True)
class EngineRows:
    """What the rows of the engine's input are, and where each question finds its answer."""

    images: Indices  # [U] numbers of the images
    targets: Indices  # [U, n] the classes asked of each
    in_order: bool  # True if the images are those of the batch, once each
    row: Indices  # [N] which engine row answers a question
    place: Indices  # [N] which of its n classes it is


def images_per_pass(height: int, width: int) -> int:
    """Return how many images of a size go into one pass."""
    return max(1, PIXELS_PER_PASS // (height * width))


def chosen_classes(logits: Array, targets: Indices) -> Indices:
    """Return the classes asked for [N], the predicted ones where none was asked for (-1)."""
    return np.where(targets < 0, logits.argmax(axis=1), targets)


def _check_finite(name: str, rows: Array, index: Indices, shape: tuple[int, ...]) -> None:
    bad = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1))
    if bad.size:
        raise NumericalError(
            f"the model returned NaN or infinite {name} for image {index[bad[0]]} of the "
            f"batch at {shape[2]} x {shape[3]} pixels: the model or the image is outside its range"
        )
