"""The Explainer: an explainer file, an engine, and images in batches."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from klieg.backends import Backend, open_backend
from klieg.errors import ImageError, InputError, OptionError, TargetError
from klieg.explainer_file import ExplainerInfo, read_explainer
from klieg.explanation import Explanation, concatenate, normalise
from klieg.images.arrays import as_image
from klieg.images.decoding import read_image
from klieg.images.fitting import Fit, Placement, fit_image
from klieg.methods.passes import Passes
from klieg.methods.table import METHODS
from klieg.targets import Target, is_single, paired, resolve_target

Image = NDArray[Any] | str | os.PathLike[str]
"""One photo: [H, W, 3] RGB in 0..255, or the path of a JPEG, PNG or BMP file."""

LARGEST_SCALE: Final = 2**14


class Explainer:
    """Explains images with one explainer file.

    >>> with Explainer("resnet50.onnx") as explainer:  # doctest: +SKIP
    ...     explanation = explainer.explain(["cat.jpg", "dog.jpg"])
    ...     explanation.maps.shape
    (2, 224, 224)

    Several threads may share one Explainer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        backend: str = "onnxruntime",
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        """Read, check and load an explainer file.

        Args:
            path: A file written by `klieg export`.
            backend: Name of the engine.
            providers: Execution providers of ONNX Runtime, such as "CUDAExecutionProvider"; None
                for the processor. What is asked for is used, or an error says why not.
            threads: Threads of one inference; None for all cores.

        Raises:
            ExplainerFileError: the file is no explainer, or is not safe to load.
            BackendError: the engine is not installed, lacks a provider, or refuses the file.
            OptionError: an option has an impossible value.
        """
        file = read_explainer(path)
        self._info = file.info
        self._channels, self._classes = file.channels, file.classes
        self._fixed_size = file.fixed_size
        self._backend = open_backend(backend, file, providers=providers, threads=threads)
        self._versions = {
            "klieg": importlib.metadata.version("klieg"),
            **self._backend.versions,
            "explainer_sha256": file.sha256,
        }

    @property
    def info(self) -> ExplainerInfo:
        """What the explainer file says about itself."""
        return self._info

    @property
    def backend(self) -> Backend:
        """The engine, for passes of one's own."""
        return self._backend

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classes

    def explain(
        self,
        images: NDArray[Any] | Image | Iterable[Image],
        *,
        method: str = "cameras",
        target: Target | Iterable[Target] = None,
        scales: Sequence[int] | None = None,
        fit: Fit = "crop",
        batch_size: int = 8,
    ) -> Explanation:
        """Explain images.

        Args:
            images: [B, H, W, 3] RGB in 0..255 (uint8; other numeric types if in that range), or a
                list of [H, W, 3] arrays and paths, sizes may differ.
            method: "cameras", "gradcam" or "hirescam".
            target: The class to explain: a number, a name, None for the predicted one, or a list
                with one of these per image.
            scales: Ascending image sizes in pixels of a multi-scale method; the maps have the
                first. None for the file's own.
            fit: How a photo becomes square: "crop" its centre, "letterbox" it between grey bars, or
                "stretch" it.
            batch_size: Number of images that are in memory with all their activations at once.

        Returns:
            Maps, raw maps, logits and more, in the order of the images.

        Raises:
            ImageError: an image is unreadable, too large, or of a wrong shape, type or range.
            TargetError: a class does not exist, or their number is not that of the images.
            OptionError: an option has an impossible value.
            BackendError: the engine failed, or the model returned NaN.
        """
        listed = _listed(images)
        if not listed:
            raise InputError("got no images, expected at least one")
        if not is_single(target):
            target = list(target)  # type: ignore[arg-type]  # not a single one
            if len(target) != len(listed):  # known before the first pass, unlike in a stream
                raise TargetError(
                    f"got {len(target)} targets for {len(listed)} images, expected one per image, "
                    "or a single one for all"
                )
        parts = self.explain_iter(
            listed, method=method, target=target, scales=scales, fit=fit, batch_size=batch_size
        )
        return concatenate(list(parts))

    def explain_iter(
        self,
        images: Iterable[Image],
        *,
        method: str = "cameras",
        target: Target | Iterable[Target] = None,
        scales: Sequence[int] | None = None,
        fit: Fit = "crop",
        batch_size: int = 8,
        on_image_error: Callable[[ImageError], None] | None = None,
    ) -> Iterator[Explanation]:
        """Explain any number of images with flat memory: one Explanation per batch, as they come.

        Args:
            images: Arrays [H, W, 3] or paths, taken one batch ahead at most.
            method: See `explain`.
            target: See `explain`; a list or iterator is taken along with the images.
            scales: See `explain`.
            fit: See `explain`.
            batch_size: See `explain`.
            on_image_error: Called with the error of an image that cannot be used, which is then
                left out; None raises the error.

        Yields:
            Explanations of `batch_size` images, of fewer at the end.

        Raises:
            KliegError: as `explain`, when the batch with the offending image is due.
        """
        sizes = self._sizes(method, scales)
        if batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}, expected at least 1")
        loaded = self._load(images, target, sizes[0], fit, on_image_error)
        return self._batches(loaded, method, sizes, batch_size)

    def close(self) -> None:
        """Free the engine."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _batches(
        self, loaded: Iterator[_Loaded], method: str, sizes: tuple[int, ...], batch_size: int
    ) -> Iterator[Explanation]:
        while batch := list(islice(loaded, batch_size)):
            yield self._explain_batch(batch, method, sizes)

    def _load(
        self,
        images: Iterable[Image],
        target: Target | Iterable[Target],
        size: int,
        fit: Fit,
        on_image_error: Callable[[ImageError], None] | None,
    ) -> Iterator[_Loaded]:
        for number, (image, one) in enumerate(paired(images, target)):
            index = resolve_target(one, classes=self._classes, names=self._info.class_names)
            try:
                if isinstance(image, str | os.PathLike):
                    photo, name = read_image(image), os.fspath(image)
                else:
                    photo, name = as_image(image), str(number)
            except ImageError as error:
                named = type(error)(f"image {number}: {error}")
                if on_image_error is None:
                    raise named from error
                on_image_error(named)
                continue
            fitted, placement = fit_image(photo, size, fit)
            yield _Loaded(photo, name, fitted, placement, index)

    def _explain_batch(
        self, batch: Sequence[_Loaded], method: str, sizes: tuple[int, ...]
    ) -> Explanation:
        images = np.empty((len(batch), self._channels, sizes[0], sizes[0]), dtype=np.float32)
        for image, loaded in zip(images, batch, strict=True):
            image[...] = loaded.fitted.transpose(2, 0, 1)
        targets = np.array([loaded.target for loaded in batch], dtype=np.int64)
        function = METHODS[method].function
        result = function(Passes(self._backend), images, targets, sizes)
        maps, degenerate = normalise(result.raw)
        return Explanation(
            maps=maps,
            raw=result.raw,
            targets=result.targets,
            logits=result.logits,
            scales_used=result.scales_used,
            degenerate=degenerate,
            scales=sizes,
            method=method,
            photos=tuple(loaded.photo for loaded in batch),
            names=tuple(loaded.name for loaded in batch),
            placements=tuple(loaded.placement for loaded in batch),
            class_names=self._info.class_names,
            probability=self._info.probability,
            versions=self._versions,
        )

    def _sizes(self, method: str, scales: Sequence[int] | None) -> tuple[int, ...]:
        """Check the method and the scales, and return the image sizes of its passes."""
        if method not in METHODS:
            raise OptionError(f"unknown method {method!r}, expected one of {sorted(METHODS)}")
        size = self._info.input_size
        if scales is None:
            if METHODS[method].multi_scale and self._fixed_size:
                raise OptionError(
                    f"method {method!r} needs several image sizes, but this model takes "
                    f"{size} x {size} pixels only: use 'gradcam' or 'hirescam', or scales=[{size}]"
                )
            return self._info.scales if METHODS[method].multi_scale else (size,)
        sizes = tuple(scales)
        whole = all(isinstance(s, int | np.integer) and 1 <= s <= LARGEST_SCALE for s in sizes)
        if not sizes or not whole or list(sizes) != sorted(set(sizes)):
            raise OptionError(
                f"scales are {list(sizes)}, expected ascending pixel sizes in 1..{LARGEST_SCALE}"
            )
        if not METHODS[method].multi_scale and len(sizes) != 1:
            raise OptionError(f"method {method!r} uses one scale, got {len(sizes)}")
        if self._fixed_size and sizes != (size,):
            raise OptionError(
                f"scales are {list(sizes)}, but this model takes {size} x {size} pixels only"
            )
        return tuple(int(s) for s in sizes)


@dataclass(frozen=True)
class _Loaded:
    """One image on its way into a batch."""

    photo: NDArray[Any]  # [H, W, 3]
    name: str
    fitted: NDArray[np.float32]  # [S, S, 3] in 0..255
    placement: Placement
    target: int


def _listed(images: NDArray[Any] | Image | Iterable[Image]) -> list[Image]:
    if isinstance(images, str | os.PathLike):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim != 4:
        hint = ": for a single image pass image[None]" if images.ndim == 3 else ""
        raise ImageError(f"got an array of shape {list(images.shape)}, expected [B, H, W, 3]{hint}")
    return list(images)
