"""Which engine serves a pass, and what to type if there is none."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from klieg.backends.tensorrt.cache import EngineCache, Entry, default_folder
from klieg.backends.tensorrt.manifest import Platform
from klieg.backends.tensorrt.profiles import EngineOptions
from klieg.errors import EngineError
from klieg.model_file.explainer_file import ExplainerFile
from klieg.model_file.methods import METHODS
from klieg.model_file.outputs import ALWAYS

DEFAULT_DEVICE: Final = "cuda.core:0"
"""Where `klieg build` builds unless told otherwise."""


class Selection:
    """The engines of one file on one platform."""

    def __init__(
        self, file: ExplainerFile, platform: Platform, cache: EngineCache, device: str
    ) -> None:
        """Look into the cache.

        Args:
            file: The explainer.
            platform: Where it is to run.
            cache: The engines.
            device: What opens the GPU, for the command that builds an engine on it.

        Raises:
            EngineError: no engine there is of this file and platform, or a manifest is damaged.
        """
        self._file, self._platform, self._cache = file, platform, cache
        self._device = device
        found = cache.entries(file)
        self._entries = [
            entry for entry in found if entry.identity.mismatch(file, platform) is None
        ]
        if not self._entries:
            raise self._none_fits(found)

    def choose(
        self, outputs: Sequence[str], *, size: int, targets_per_image: int, batch: int = 1
    ) -> Entry:
        """Return the engine with the fewest other outputs, then that for the largest batches.

        Args:
            outputs: Names of the outputs wanted.
            size: Height and width of the images in pixels.
            targets_per_image: Classes asked of each image.
            batch: Images that it must take at once.

        Raises:
            EngineError: none holds all that.
        """
        wanted = EngineOptions((size,), batch, targets_per_image)
        self.check(outputs, wanted)
        return min(self._fitting(outputs, size, wanted), key=_preference)

    def check(self, outputs: Sequence[str], wanted: EngineOptions) -> None:
        """Look for an engine for each of several sizes.

        Raises:
            EngineError: there is none for one of them.
        """
        if not all(self._fitting(outputs, size, wanted) for size in wanted.sizes):
            raise self._none_holds(outputs, wanted)

    def _fitting(self, outputs: Sequence[str], size: int, wanted: EngineOptions) -> list[Entry]:
        return [
            entry
            for entry in self._entries
            if set(outputs) <= set(entry.identity.outputs)
            and entry.identity.options.holds(size, wanted.targets_per_image, wanted.max_batch)
        ]

    def _none_fits(self, found: Sequence[Entry]) -> EngineError:
        """Say why none of the engines in the folder serves, as far as they could be meant to."""
        related = [
            f"; {entry.plan.name}: {entry.identity.mismatch(self._file, self._platform)}"
            for entry in found
        ]
        info = self._file.info
        sizes = (info.input_size,) if self._file.fixed_size else info.scales
        return EngineError(
            f"no engine of {self._file.path} for {self._platform} in {self._cache.folder}"
            f"{''.join(related)}; {self._advice(sorted(ALWAYS), EngineOptions(sizes))}"
        )

    def _none_holds(self, outputs: Sequence[str], wanted: EngineOptions) -> EngineError:
        """Say what the engines hold, and how to build one that holds this as well."""
        options = replace(wanted, max_batch=max(wanted.max_batch, EngineOptions.max_batch))
        for own in (entry.identity for entry in self._entries):
            if set(outputs) <= set(own.outputs):
                options = EngineOptions(
                    tuple(sorted({*options.sizes, *own.options.sizes})),
                    max(options.max_batch, own.options.max_batch),
                    max(options.targets_per_image, own.options.targets_per_image),
                    own.options.workspace_bytes,
                )
        method = _method(self._file, outputs)
        if method is not None and not METHODS[method].multi_scale:
            options = replace(options, sizes=wanted.sizes)
        there = "; ".join(
            f"{', '.join(entry.identity.outputs)} of {entry.identity.options}"
            for entry in self._entries
        )
        return EngineError(
            f"no engine of {self._file.path} computes {', '.join(outputs)} of {wanted}; "
            f"those there: {there}; {self._fewer(outputs, wanted)}{self._advice(outputs, options)}"
        )

    def _fewer(self, outputs: Sequence[str], wanted: EngineOptions) -> str:
        """Say how to get along with what is there if only the number of images is too large."""
        one = replace(wanted, max_batch=1)
        fitting = [self._fitting(outputs, size, one) for size in wanted.sizes]
        if not all(fitting):
            return ""
        most = min(max(entry.identity.options.max_batch for entry in some) for some in fitting)
        counted = (
            "" if self._file.several_targets else " (each class of an image counts as an image)"
        )
        return (
            f"pass at most {most} at once with batch_size={most} (--batch-size {most} of a "
            f"command){counted}, or "
        )

    def _advice(self, outputs: Sequence[str], options: EngineOptions) -> str:
        method = _method(self._file, outputs)
        if method is None:
            return "no method needs these outputs together: ask for them in several passes"
        words = ["klieg", "build", str(self._file.path)]
        words += ["--methods", method, "--scales", ",".join(map(str, options.sizes))]
        words += ["--batch", str(options.max_batch)]
        if options.targets_per_image > 1:
            words += ["--targets", str(options.targets_per_image)]
        if options.workspace_bytes is not None:
            words += ["--workspace", str(max(1, options.workspace_bytes >> 20))]
        if self._device != DEFAULT_DEVICE:
            words += ["--device", self._device]
        if self._cache.folder != default_folder():
            words += ["--engines", str(self._cache.folder)]
        return f"build it here: {shlex.join(words)}"


def _preference(entry: Entry) -> tuple[int, int]:
    return len(entry.identity.outputs), -entry.identity.options.max_batch


def _method(file: ExplainerFile, outputs: Sequence[str]) -> str | None:
    """Return the method of this file that needs all of some outputs and least besides."""
    names = [
        name
        for name, method in METHODS.items()
        if set(outputs) <= set(method.outputs) <= file.outputs
        and not (method.multi_scale and file.fixed_size)
    ]
    return min(names, key=lambda name: len(METHODS[name].outputs), default=None)
