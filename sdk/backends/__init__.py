"""Inference engines behind one small protocol, chosen by name and never swapped silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from klieg.errors import OptionError
from klieg.explainer_file import ExplainerFile


class Backend(Protocol):
    """An engine that has loaded one explainer file."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Names and versions of what computes."""

    def run(
        self, images: NDArray[np.float32], targets: NDArray[np.int64], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Compute some outputs of the file.

        Args:
            images: [B, channels, H, W] in 0..255.
            targets: [B], -1 for the predicted class.
            outputs: Names of the outputs wanted.

        Returns:
            New arrays, one per name, as the file declares them.

        Raises:
            BackendError: the engine failed.
        """

    def close(self) -> None:
        """Free the engine; it cannot be used afterwards."""


Factory = Callable[[ExplainerFile, Sequence[str] | None, int | None], Backend]


def _onnxruntime(
    file: ExplainerFile, providers: Sequence[str] | None, threads: int | None
) -> Backend:
    from klieg.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(file, providers=providers, threads=threads)


BACKENDS: Mapping[str, Factory] = MappingProxyType({"onnxruntime": _onnxruntime})


def open_backend(
    name: str, file: ExplainerFile, *, providers: Sequence[str] | None, threads: int | None
) -> Backend:
    """Load an explainer file into the engine called `name`.

    Raises:
        OptionError: there is no such engine, or an option is impossible.
        BackendError: the engine is not installed, lacks a provider, or refuses the file.
    """
    if name not in BACKENDS:
        raise OptionError(f"unknown backend {name!r}, expected one of {sorted(BACKENDS)}")
    if threads is not None and threads < 1:
        raise OptionError(f"threads is {threads}, expected at least 1, or None for all cores")
    return BACKENDS[name](file, providers, threads)
