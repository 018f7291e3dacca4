"""Output formats: what an image's result is, and a row for every kind of file made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import OptionError
from klieg.extensions import extension, extension_names
from klieg.maps.regions import Rule, bounding_boxes
from klieg.results.lettering import Picture, write_png
from klieg.results.overlay import LONGEST_SIDE, overlay
from klieg.results.views import contact_sheet
from klieg.storage.atomic import atomic_path


@dataclass(frozen=True, kw_only=True)
class Result:
    """One image explained by one method for one class, in plain values."""

    name: str
    """Path of the image as given, or its number in the call."""
    photo: Picture
    """[H, W, 3] uint8 RGB."""
    saliency: NDArray[np.float32]
    """[H, W] float32 in 0..1."""
    threshold: float
    """What is above it in `saliency` is salient."""
    rule: Rule
    """Where the threshold comes from."""
    method: str
    """Name of the method as the command line takes it."""
    method_title: str
    """The same as its authors write it."""
    pixelwise: bool
    """True if every pixel has a value of its own, few of them far above the rest."""
    target: int
    """The class explained."""
    class_name: str
    probability: float
    """Of that class, in 0..1."""
    predicted: str | None
    """The class predicted, where it is another one."""
    scales: tuple[int, ...]
    """Image sizes in pixels."""
    scales_used: tuple[bool, ...]
    """Which of them count in the map."""
    degenerate: bool
    """True if there is no positive evidence."""

    @property
    def region(self) -> NDArray[np.bool_]:
        """[H, W] True where the photo is salient."""
        return np.asarray(self.saliency > np.float64(self.threshold))  # not rounded to float32

    @property
    def box(self) -> NDArray[np.int64]:
        """[4] xmin, ymin, xmax, ymax round the largest part of the region, ends exclusive."""
        return np.asarray(bounding_boxes(self.region[None])[0])

    @property
    def title(self) -> str:
        """Class and probability."""
        return f"{self.class_name}  {self.probability:.1%}"

    @property
    def subtitle(self) -> str:
        """Method, and what else a reader has to know."""
        parts = [self.method_title]
        if len(self.scales) > 1:
            parts.append(f"{sum(self.scales_used)} of {len(self.scales)} scales")
        if self.predicted is not None:
            parts.append(f"predicted: {self.predicted}")
        if self.pixelwise:
            parts.append("brightest 1 % saturated")
        if self.degenerate:
            parts.append("no positive evidence")
        return ", ".join(parts)


@dataclass(frozen=True)
class Writer:
    """An output format: one file per result."""

    label: str
    """What the file is called in `results.jsonl`."""
    ending: str
    """Of the file's name, behind the name of the image."""
    write: Callable[[Result, Path], None]
    """Writes the file, complete or not at all."""


def draw_overlay(result: Result, longest_side: int = LONGEST_SIDE) -> Picture:
    """Draw the map over the photo, with a legend and the class."""
    saliency = _brightened(result.saliency) if result.pixelwise else result.saliency
    return overlay(
        result.photo,
        saliency,
        title=result.title,
        subtitle=result.subtitle,
        longest_side=longest_side,
    )


def _write_overlay(result: Result, path: Path) -> None:
    write_png(path, draw_overlay(result))


def _write_map(result: Result, path: Path) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, result.saliency)


def _write_views(result: Result, path: Path) -> None:
    region = result.region
    subtitle = f"{result.subtitle}, {region.mean():.0%} salient (rule: {result.rule})"
    picture = contact_sheet(result.photo, region, result.box, title=result.title, subtitle=subtitle)
    write_png(path, picture)


def _brightened(saliency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale a map of single bright pixels for the eye: 1 % of what is not 0 saturates."""
    shown = saliency[saliency > 0]
    if not shown.size:
        return saliency
    return np.asarray(np.minimum(saliency / np.quantile(shown, 0.99), 1), dtype=np.float32)


FORMATS: Final[Mapping[str, Writer]] = MappingProxyType(
    {
        "png": Writer("overlay", ".png", _write_overlay),
        "npy": Writer("map", ".npy", _write_map),
        "views": Writer("views", "-views.png", _write_views),
    }
)
DEFAULT_FORMATS: Final = ("png", "npy")


def find_format(name: str) -> Writer:
    """Return an output format by its name.

    Raises:
        OptionError: neither klieg nor an installed package has it.
    """
    found: Any = FORMATS.get(name) or extension("klieg.formats", name)
    if found is None:
        known = ", ".join((*FORMATS, *extension_names("klieg.formats")))
        raise OptionError(f"unknown format {name!r}, expected one of {known}")
    writer: Writer = found
    return writer
