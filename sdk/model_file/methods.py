"""All methods by name: what each needs from the explainer file, and its options.

Nothing heavy is imported here, so that the command line can list the methods at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from klieg.errors import OptionError, TargetError
from klieg.extensions import extension, extension_names
from klieg.model_file.explainer_file import LARGEST_SIZE
from klieg.model_file.outputs import OUTPUTS

if TYPE_CHECKING:
    from klieg.model_file.explainer_file import ExplainerInfo

MethodFunction = Callable[..., Any]
"""(model, batch, sizes, **options) -> RawMaps of the batch; sizes[0] is the size of its images"""


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
    """package.module:function, imported when it is used."""
    outputs: tuple[str, ...]
    """What it needs from the explainer file."""
    options: Mapping[str, Option] = field(default_factory=dict)
    multi_scale: bool = False
    class_free: bool = False
    """True if its maps do not depend on a class, so that none can be asked for."""
    bounded: bool = False
    """True if raw maps are in 0..1 already: maps are the same, neither cut off nor scaled."""

    on_device: str | None = None
    """The same as `where`, of what enqueues it on a GPU; None if it computes on the host only."""

    @property
    def function(self) -> MethodFunction:
        """The function that computes the raw maps."""
        return _loaded(self.where)

    @property
    def device_function(self) -> Callable[..., Any]:
        """(backend, kernels, questions, sizes) -> DeviceMaps, enqueued."""
        assert self.on_device is not None
        return _loaded(self.on_device)

    @property
    def pixelwise(self) -> bool:
        """True if every pixel has a value of its own, few of them far above the rest."""
        return not self.bounded and any(OUTPUTS[name].form == "image" for name in self.outputs)


def _loaded(where: str) -> Callable[..., Any]:
    module, name = where.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


LAYER: Final = ("logits", "activation", "gradient")
IMAGE: Final = ("logits", "image_gradient")
CELLS: Final = Option(28, 1, 1000, "cells of the mask along each side")
SEED: Final = Option(0, 0, 2**32 - 1, "the seed of the random numbers")

METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "cameras": Method(
            "CAMERAS",
            "klieg.methods.cameras:cameras",
            LAYER,
            multi_scale=True,
            on_device="klieg.methods.on_device:cameras",
        ),
        "gradcam": Method("Grad-CAM", "klieg.methods.class_activation:gradcam", LAYER),
        "gradcam++": Method(
            "Grad-CAM++", "klieg.methods.class_activation:gradcam_plus_plus", LAYER
        ),
        "hirescam": Method("HiResCAM", "klieg.methods.class_activation:hirescam", LAYER),
        "layercam": Method("LayerCAM", "klieg.methods.class_activation:layercam", LAYER),
        "normgrad": Method("NormGrad", "klieg.methods.class_activation:normgrad", LAYER),
        "linear_approx": Method(
            "Linear approximation", "klieg.methods.class_activation:linear_approx", LAYER
        ),
        "cam": Method("CAM", "klieg.methods.class_activation:cam", LAYER),
        "saliency": Method("Saliency", "klieg.methods.image_gradient:saliency", IMAGE),
        "gradient_x_input": Method(
            "Gradient x input", "klieg.methods.image_gradient:gradient_x_input", IMAGE
        ),
        "smoothgrad": Method(
            "SmoothGrad",
            "klieg.methods.path:smoothgrad",
            IMAGE,
            {
                "samples": Option(25, 1, 1_000_000, "noisy copies of the image"),
                "noise": Option(0.15, 0, 10, "standard deviation, relative to the image's range"),
                "seed": SEED,
            },
        ),
        "integrated_gradients": Method(
            "Integrated gradients",
            "klieg.methods.path:integrated_gradients",
            IMAGE,
            {"steps": Option(32, 1, 1_000_000, "points on the path from the mean colour")},
        ),
        "meaningful": Method(
            "Meaningful perturbation",
            "klieg.methods.meaningful:meaningful",
            IMAGE,
            {"steps": Option(100, 1, 1_000_000, "steps of the search"), "cells": CELLS},
            bounded=True,
        ),
        "extremal": Method(
            "Extremal perturbation",
            "klieg.methods.extremal:extremal",
            IMAGE,
            {"steps": Option(100, 1, 1_000_000, "steps of the search"), "cells": CELLS},
            bounded=True,
        ),
        "guided_backprop": Method(
            "Guided backpropagation",
            "klieg.methods.image_gradient:guided_backprop",
            ("logits", "guided_gradient"),
        ),
        "deconvnet": Method(
            "Deconvnet", "klieg.methods.image_gradient:deconvnet", ("logits", "deconvnet_gradient")
        ),
        "excitation_backprop": Method(
            "Excitation backprop",
            "klieg.methods.class_activation:excitation_backprop",
            ("logits", "excitation"),
        ),
        "contrastive_excitation": Method(
            "Contrastive excitation backprop",
            "klieg.methods.class_activation:contrastive_excitation",
            ("logits", "contrast"),
        ),
        "rise": Method(
            "RISE",
            "klieg.methods.rise:rise",
            ("logits",),
            {
                "masks": Option(2000, 1, 10_000_000, "random masks"),
                "cells": Option(7, 1, 1000, "cells of a mask along each side"),
                "visible": Option(0.5, 1e-6, 1, "share of the cells that a mask shows"),
                "seed": SEED,
            },
        ),
        "casm": Method(
            "CASM",
            "klieg.methods.masking:casm",
            ("logits", "mask"),
            class_free=True,
            bounded=True,
            on_device="klieg.methods.on_device:casm",
        ),
    }
)


def find_method(name: str) -> Method:
    """Return an entry of the table, or one that an installed package adds.

    Raises:
        OptionError: there is none of that name.
    """
    found = METHODS.get(name) or extension("klieg.methods", name)
    if found is None:
        known = ", ".join((*METHODS, *extension_names("klieg.methods")))
        raise OptionError(f"unknown method {name!r}, expected one of {known}")
    return found


def check_takes_target(name: str) -> None:
    """Raise TargetError if a method's map does not depend on a class, so that none can be asked."""
    if find_method(name).class_free:
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


def chosen_scales(
    scales: Sequence[int] | None, *, method: str, info: ExplainerInfo, fixed_size: bool
) -> tuple[int, ...]:
    """Return the image sizes of a method's passes, the first that of its maps.

    Args:
        scales: What was asked for; None for the explainer file's own.
        method: Name of the method.
        info: What the explainer file says about itself.
        fixed_size: True if the model takes images of one size only.

    Raises:
        OptionError: they are no ascending sizes, or more than method or model can take.
    """
    multi_scale = find_method(method).multi_scale
    size = info.input_size
    if scales is None:
        if multi_scale and fixed_size:
            raise OptionError(
                f"method {method!r} needs several image sizes, but this model takes "
                f"{size} x {size} pixels only: use one like 'gradcam', or scales=[{size}]"
            )
        return info.scales if multi_scale else (size,)
    sizes = tuple(scales)
    whole = all(isinstance(s, Integral) and 1 <= s <= LARGEST_SIZE for s in sizes)
    if not sizes or not whole or list(sizes) != sorted(set(sizes)):
        raise OptionError(
            f"scales are {list(sizes)}, expected ascending pixel sizes in 1..{LARGEST_SIZE}"
        )
    if not multi_scale and len(sizes) != 1:
        raise OptionError(f"method {method!r} uses one scale, got {len(sizes)}")
    if fixed_size and sizes != (size,):
        raise OptionError(
            f"scales are {list(sizes)}, but this model takes {size} x {size} pixels only"
        )
    return tuple(int(s) for s in sizes)
