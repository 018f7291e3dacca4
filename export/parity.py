"""Exporting without comparing numbers is not exporting: the explainer against its original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from klieg.errors import ParityError
from numpy.typing import NDArray

Array = NDArray[np.float32]
Reference = Callable[[Array, Sequence[int]], tuple[Array, ...]]
"""Computes the true outputs for images [B, channels, H, W] in 0..255 and one target per image."""

LIMIT: Final = 1e-3
"""Largest relative error an export may have; float32 rounding alone gives about 1e-6."""


def compare(
    session: Any,
    reference: Reference,
    outputs: Sequence[str],
    *,
    sizes: Iterable[int],
    channels: int,
    classes: int,
) -> dict[str, float]:
    """Return the largest relative error of each output of an explainer.

    Args:
        session: The explainer, open.
        reference: Computes the truth of these outputs.
        outputs: Names of the outputs to compare.
        sizes: Image sizes to compare at, two images of two classes each.
        channels: Number of channels of an image.
        classes: Number of classes.
    """
    worst = dict.fromkeys(outputs, 0.0)
    for seed, size in enumerate(sizes):
        images = random_images(size, channels=channels, seed=seed)
        targets = two_targets(classes, seed=seed)
        got = session.run(list(outputs), {"image": images, "target": np.array(targets)})
        truths = reference(images, targets)
        for name, mine, truth in zip(outputs, got, truths, strict=True):
            worst[name] = max(
                worst[name], relative_error(np.broadcast_to(mine, truth.shape), truth)
            )
    return worst


def check(errors: Mapping[str, float]) -> None:
    """Raise ParityError if an error exceeds the limit."""
    wrong = {name: error for name, error in errors.items() if not error <= LIMIT}
    if wrong:
        listed = ", ".join(f"{name} {error:.1e}" for name, error in wrong.items())
        raise ParityError(
            f"the explainer disagrees with the original by a relative error of {listed} "
            f"(at most {LIMIT:.0e} is accepted); nothing was written. If the model is random or "
            "training-dependent, fix that; otherwise please report it with the model"
        )


def relative_error(got: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return |got - truth| / |truth| in the Euclidean norm; 0 if both are zero."""
    difference = float(np.linalg.norm((got.astype(np.float64) - truth).ravel()))
    norm = float(np.linalg.norm(truth.astype(np.float64).ravel()))
    return difference / norm if norm else (0.0 if difference == 0 else np.inf)


def random_images(size: int, *, channels: int, seed: int) -> Array:
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
