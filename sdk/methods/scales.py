"""Which image sizes a method passes through a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from klieg.errors import OptionError
from klieg.methods.table import find_method
from klieg.model_file.explainer_file import ExplainerInfo

LARGEST_SCALE: Final = 2**14


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
    whole = all(isinstance(s, int | np.integer) and 1 <= s <= LARGEST_SCALE for s in sizes)
    if not sizes or not whole or list(sizes) != sorted(set(sizes)):
        raise OptionError(
            f"scales are {list(sizes)}, expected ascending pixel sizes in 1..{LARGEST_SCALE}"
        )
    if not multi_scale and len(sizes) != 1:
        raise OptionError(f"method {method!r} uses one scale, got {len(sizes)}")
    if fixed_size and sizes != (size,):
        raise OptionError(
            f"scales are {list(sizes)}, but this model takes {size} x {size} pixels only"
        )
    return tuple(int(s) for s in sizes)
