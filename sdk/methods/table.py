"""All methods by name: what each needs from the explainer file, and its options.

Nothing heavy is imported here, so that the command line can list the methods at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from klieg.errors import OptionError, TargetError

if TYPE_CHECKING:
    from klieg.methods.passes import RawMaps

MethodFunction = Callable[..., "RawMaps"]
"""(passes, batch, sizes, **options) -> raw maps of the batch; sizes[0] is the size of its images"""


@dataclass(frozen=True)
class Option:
    """A number that a method takes."""

    default: int | float
    """Also says whether only whole numbers are taken."""
    lowest: float
    highest: float
    meaning: str

    def checked(self, name: str, value: Any) -> int | float:
        """Return a usable value or raise OptionError."""
        whole = isinstance(self.default, int)
        kind = Integral if whole else Real
        usable = isinstance(value, kind) and not isinstance(value, bool)
        if not usable or not self.lowest <= value <= self.highest:  # also refuses NaN
            raise OptionError(
                f"{name} is {value!r}, expected a {'whole ' if whole else ''}number in "
                f"{self.lowest:g}..{self.highest:g}: {self.meaning}"
            )
        return int(value) if whole else float(value)


@dataclass(frozen=True)
class Method:
    """An entry of the table of methods."""

    title: str
    """Its name as its authors write it."""
    where: str
    """module:function, imported when it is used."""
    outputs: tuple[str, ...]
    """What it needs from the explainer file."""
    options: Mapping[str, Option] = field(default_factory=dict)
    multi_scale: bool = False
    class_free: bool = False
    """True if its maps do not depend on a class, so that none can be asked for."""
    bounded: bool = False
    """True if raw maps are in 0..1 already: maps are the same, neither cut off nor scaled."""

    @property
    def function(self) -> MethodFunction:
        """The function that computes the raw maps."""
        module, name = self.where.split(":")
        function: MethodFunction = getattr(importlib.import_module(f"klieg.methods.{module}"), name)
        return function

    @property
    def pixelwise(self) -> bool:
        """True if every pixel has a value of its own, few of them far above the rest."""
        return not self.bounded and any(name.endswith("_gradient") for name in self.outputs)


LAYER: Final = ("logits", "activation", "gradient")
IMAGE: Final = ("logits", "image_gradient")
CELLS: Final = Option(28, 1, 1000, "cells of the mask along each side")
SEED: Final = Option(0, 0, 2**32 - 1, "the seed of the random numbers")

METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "cameras": Method("CAMERAS", "cameras:cameras", LAYER, multi_scale=True),
        "gradcam": Method("Grad-CAM", "class_activation:gradcam", LAYER),
        "gradcam++": Method("Grad-CAM++", "class_activation:gradcam_plus_plus", LAYER),
        "hirescam": Method("HiResCAM", "class_activation:hirescam", LAYER),
        "layercam": Method("LayerCAM", "class_activation:layercam", LAYER),
        "normgrad": Method("NormGrad", "class_activation:normgrad", LAYER),
        "linear_approx": Method("Linear approximation", "class_activation:linear_approx", LAYER),
        "cam": Method("CAM", "class_activation:cam", LAYER),
        "saliency": Method("Saliency", "image_gradient:saliency", IMAGE),
        "gradient_x_input": Method("Gradient x input", "image_gradient:gradient_x_input", IMAGE),
        "smoothgrad": Method(
            "SmoothGrad", "path:smoothgrad", IMAGE,
            {
                "samples": Option(25, 1, 1_000_000, "noisy copies of the image"),
                "noise": Option(0.15, 0, 10, "standard deviation, relative to the image's range"),
                "seed": SEED,
            },
        ),
        "integrated_gradients": Method(
            "Integrated gradients", "path:integrated_gradients", IMAGE,
            {"steps": Option(32, 1, 1_000_000, "points on the path from the mean colour")},
        ),
        "meaningful": Method(
            "Meaningful perturbation", "meaningful:meaningful", IMAGE,
            {"steps": Option(100, 1, 1_000_000, "steps of the search"), "cells": CELLS},
            bounded=True,
        ),
        "extremal": Method(
            "Extremal perturbation", "extremal:extremal", IMAGE,
            {"steps": Option(100, 1, 1_000_000, "steps of the search"), "cells": CELLS},
            bounded=True,
        ),
        "guided_backprop": Method(
            "Guided backpropagation", "image_gradient:guided_backprop",
            ("logits", "guided_gradient"),
        ),
        "deconvnet": Method(
            "Deconvnet", "image_gradient:deconvnet", ("logits", "deconvnet_gradient")
        ),
        "excitation_backprop": Method(
            "Excitation backprop", "class_activation:excitation_backprop", ("logits", "excitation")
        ),
        "contrastive_excitation": Method(
            "Contrastive excitation backprop", "class_activation:contrastive_excitation",
            ("logits", "contrast"),
        ),
        "rise": Method(
            "RISE", "rise:rise", ("logits",),
            {
                "masks": Option(2000, 1, 10_000_000, "random masks"),
                "cells": Option(7, 1, 1000, "cells of a mask along each side"),
                "visible": Option(0.5, 1e-6, 1, "share of the cells that a mask shows"),
                "seed": SEED,
            },
        ),
        "casm": Method("CASM", "masking:casm", ("logits", "mask"), class_free=True, bounded=True),
    }
)  # fmt: skip


def find_method(name: str) -> Method:
    """Return an entry of the table or raise OptionError."""
    if name not in METHODS:
        raise OptionError(f"unknown method {name!r}, expected one of {', '.join(METHODS)}")
    return METHODS[name]


def check_target(name: str, target: object) -> None:
    """Raise TargetError if a class, or several, are asked of a method that has none."""
    if target is not None and find_method(name).class_free:
        raise TargetError(
            f"got a target for method {name!r}, whose map does not depend on a class: leave the "
            "target out, or use another method"
        )


def checked_options(name: str, given: Mapping[str, Any]) -> dict[str, int | float]:
    """Return the options of a method with their values, the defaults included.

    Raises:
        OptionError: the method has no such option, or a value is impossible.
    """
    options = find_method(name).options
    unknown = [option for option in given if option not in options]
    if unknown:
        has = f"it takes {', '.join(options)}" if options else "it takes none"
        raise OptionError(f"method {name!r} has no option {unknown[0]!r}: {has}")
    return {
        option: entry.checked(option, given.get(option, entry.default))
        for option, entry in options.items()
    }
