"""All methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from klieg.methods.cameras import cameras
from klieg.methods.passes import Passes, RawMaps
from klieg.methods.single_scale import gradcam, hirescam

MethodFunction = Callable[[Passes, NDArray[np.float32], NDArray[np.int64], Sequence[int]], RawMaps]
"""(passes, images [B, C, S, S], targets [B] or -1, sizes with sizes[0] = S) -> raw maps."""


@dataclass(frozen=True)
class Method:
    """An entry of the table of methods."""

    function: MethodFunction
    multi_scale: bool
    title: str


METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "cameras": Method(cameras, multi_scale=True, title="CAMERAS"),
        "gradcam": Method(gradcam, multi_scale=False, title="Grad-CAM"),
        "hirescam": Method(hirescam, multi_scale=False, title="HiResCAM"),
    }
)
