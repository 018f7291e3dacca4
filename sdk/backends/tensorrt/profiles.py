"""Which shapes an engine is made for: one optimisation profile per image size.

A profile that spans all sizes is tuned for one of them and reserves memory for the largest. With a
profile of its own each size of CAMERAS is as fast as it can be; only the number of images varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from klieg.errors import OptionError
from klieg.model_file.explainer_file import ExplainerFile

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The smallest, the usual and the largest shape of an input."""


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is made for.

    Raises:
        OptionError: a value is impossible.
    """

    sizes: tuple[int, ...]
    """Heights and widths of images in pixels, ascending."""
    max_batch: int = 8
    """Images in one pass at most; the engine is tuned for this number."""
    targets_per_image: int = 1
    """Classes that one pass is asked for at most, for each of its images."""
    workspace_bytes: int | None = None
    """Memory that a layer may use besides its results; None for all there is."""

    def __post_init__(self) -> None:
        numbers = {
            "max_batch": self.max_batch,
            "targets_per_image": self.targets_per_image,
            "workspace_bytes": 1 if self.workspace_bytes is None else self.workspace_bytes,
        }
        for name, number in numbers.items():
            if not _positive(number):
                raise OptionError(f"{name} is {number!r}, expected a whole number of at least 1")
        sizes = self.sizes
        if not sizes or not all(map(_positive, sizes)) or list(sizes) != sorted(set(sizes)):
            raise OptionError(f"sizes are {list(sizes)}, expected ascending sizes in pixels")

    def holds(self, size: int, targets_per_image: int, batch: int) -> bool:
        """Return whether an engine takes so many images of a size and classes of each."""
        return (
            size in self.sizes
            and 1 <= targets_per_image <= self.targets_per_image
            and 1 <= batch <= self.max_batch
        )

    def __str__(self) -> str:
        per_image = (
            "1 class" if self.targets_per_image == 1 else f"{self.targets_per_image} classes"
        )
        images = "1 image" if self.max_batch == 1 else f"1 to {self.max_batch} images"
        return f"{images} of {', '.join(map(str, self.sizes))} pixels, {per_image} each"


def profiles(file: ExplainerFile, options: EngineOptions) -> list[Mapping[str, Shapes]]:
    """Return the shapes of the inputs, one entry per size.

    Raises:
        OptionError: the file takes no such images, or not several classes.
    """
    own = (file.info.input_size,)
    if file.fixed_size and options.sizes != own:
        raise OptionError(
            f"sizes are {list(options.sizes)}, but this model takes {own[0]} x {own[0]} pixels only"
        )
    if options.targets_per_image > 1 and not file.several_targets:
        raise OptionError(
            f"targets_per_image is {options.targets_per_image}, but this file takes one class per "
            "image: leave it at 1"
        )
    most = options.max_batch
    targets = most * options.targets_per_image
    return [
        {
            "image": (
                (1, file.channels, size, size),
                (most, file.channels, size, size),
                (most, file.channels, size, size),
            ),
            "target": ((1,), (targets,), (targets,)),
        }
        for size in options.sizes
    ]


def _positive(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
