"""The Explainer: an explainer file, an engine, and images in batches."""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from numbers import Integral
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from klieg.backends import Engine, is_device_backend, named_engine
from klieg.errors import ImageError, InputError, OptionError, TargetError
from klieg.explanation import Explanation, concatenate
from klieg.images.batch import Batch
from klieg.images.fitting import Fit, Placement
from klieg.images.intake import Image, Intake, Photos, listed_images
from klieg.images.targets import Targets, is_single
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.normalisation import as_masks, normalise
from klieg.methods.model import Maps, Model
from klieg.model_file.explainer_file import read_explainer
from klieg.model_file.methods import (
    METHODS,
    Method,
    check_takes_target,
    checked_options,
    chosen_scales,
    find_method,
)
from klieg.model_file.outputs import remedy

if TYPE_CHECKING:
    from klieg.methods.running import DeviceRunner


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
        backend: str | Engine = "onnxruntime",
        **earlier: Any,
    ) -> None:
        """Read, check and load an explainer file.

        What is asked for is used, or an error says why not.

        Args:
            path: A file written by `klieg export`.
            backend: The engine with its options, such as `klieg.OnnxRuntime(threads=2)` or
                `klieg.TensorRT(device="cuda.core")`; or its name, for an engine without options.
            **earlier: Options of a named engine, deprecated: give them to the engine itself.

        Raises:
            ExplainerFileError: the file is no explainer, or is not safe to load.
            BackendError: the engine is not installed, lacks something, or refuses the file.
            DeviceError: there is no usable GPU.
            EngineError: TensorRT's engines are missing, damaged, or those of another GPU.
            OptionError: there is no such engine, or an option has an impossible value.
        """
        file = read_explainer(path)
        self.info: Final = file.info
        """What the explainer file says about itself."""
        self.outputs: Final = file.outputs
        """What it computes."""
        self.classes: Final = file.classes
        """Number of classes."""
        self.channels: Final = file.channels
        """Number of channels of the model's images."""
        self._fixed_size = file.fixed_size
        with ExitStack() as opened:
            self.backend: Final = opened.enter_context(_engine(backend, earlier).opened(file))
            """The engine, for passes of one's own."""
            self.model: Final = Model(self.backend, file.info, several_targets=file.several_targets)
            """The classifier as the methods ask it: batches in, checked outputs out."""
            self._intake = Intake(file, self.backend.device)
            self._on_device: DeviceRunner | None = None
            if is_device_backend(self.backend):
                from klieg.methods.running import DeviceRunner

                self._on_device = DeviceRunner(self.model, self.backend)
                opened.callback(self._on_device.close)
            self._opened = opened.pop_all()
        self.versions: Final[Mapping[str, str]] = {
            "klieg": importlib.metadata.version("klieg"),
            **self.backend.versions,
            "explainer_sha256": file.sha256,
        }
        """What computes: klieg, the engine, the digest of the explainer file."""

    def explain(
        self,
        images: NDArray[Any] | Image | Iterable[Image],
        *,
        method: str = "cameras",
        target: Targets = None,
        scales: Sequence[int] | None = None,
        fit: Fit = "crop",
        batch_size: int = 8,
        **options: float,
    ) -> Explanation:
        """Explain images.

        Args:
            images: [B, H, W, 3] RGB in 0..255 (uint8; other numeric types if in that range), or a
                list of [H, W, 3] arrays and paths, sizes may differ. With a device also an array
                on that GPU (of CuPy, torch, or whatever has DLPack or __cuda_array_interface__):
                uint8 [B, S, S, channels] or float32 [B, channels, S, S] in 0..255 with S the
                first scale. It is read where it lies (replay, and several classes with a file that
                takes one, copy it on the GPU), and its values are not checked.
            method: Name of the method; `klieg explain --help` lists them with what they need.
            target: The class to explain: a number, a name, None for the predicted one, or a list
                with one of these per image, or with a list of these per image: the result then
                has one row per image and class, in order. "casm" takes none.
            scales: Ascending image sizes in pixels of a multi-scale method; the maps have the
                first. None for the file's own.
            fit: How a photo becomes square: "crop" its centre, "letterbox" it between grey bars, or
                "stretch" it.
            batch_size: Number of images that are in memory with all their activations at once.
            **options: Numbers that the method takes, see `klieg.model_file.methods`.

        Returns:
            Maps, raw maps, logits and more, in the order of the images.

        Raises:
            ImageError: an image is unreadable, too large, or of a wrong shape, type or range.
            TargetError: a class does not exist, or their number is not that of the images.
            OptionError: an option has an impossible value, the method has no such option, or the
                file was not exported for it.
            BackendError: the engine failed, or the model returned NaN.
        """
        listed = listed_images(images)
        if len(listed) == 0:
            raise InputError("got no images, expected at least one")
        if target is not None and not is_single(target):
            target = list(target)  # type: ignore[arg-type]  # not a single one
            if len(target) != len(listed):  # known before the first pass, unlike in a stream
                raise TargetError(
                    f"got {len(target)} targets for {len(listed)} images, expected one per image, "
                    "or a single one for all"
                )
        parts = list(
            self.explain_iter(
                listed,
                method=method,
                target=target,
                scales=scales,
                fit=fit,
                batch_size=batch_size,
                on_image_error=None,
                **options,
            )
        )
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def explain_iter(
        self,
        images: Iterable[Image],
        *,
        method: str = "cameras",
        target: Targets = None,
        scales: Sequence[int] | None = None,
        fit: Fit = "crop",
        batch_size: int = 8,
        on_image_error: Callable[[ImageError], None] | None = None,
        **options: float,
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
            **options: See `explain`.

        Yields:
            Explanations of `batch_size` images, of fewer at the end.

        Raises:
            KliegError: as `explain`, when the batch with the offending image is due.
        """
        if target is not None:
            check_takes_target(method)
        explain = self.method(method, scales=scales, fit=fit, **options)
        photos = self.read(
            images, target=target, batch_size=batch_size, on_image_error=on_image_error
        )
        return (explain(part) for part in photos)

    def read(
        self,
        images: Iterable[Image],
        *,
        target: Targets = None,
        batch_size: int = 8,
        on_image_error: Callable[[ImageError], None] | None = None,
    ) -> Iterator[Photos]:
        """Read photos in batches, to be explained by one method or by several.

        >>> gradcam, cam = (explainer.method(name) for name in ("gradcam", "cam"))  # doctest: +SKIP
        >>> for photos in explainer.read(paths):  # doctest: +SKIP
        ...     print(gradcam(photos).maps - cam(photos).maps)

        Args:
            images: See `explain_iter`.
            target: See `explain_iter`.
            batch_size: See `explain`.
            on_image_error: See `explain_iter`.

        Yields:
            Photos of `batch_size` images, of fewer at the end.

        Raises:
            KliegError: as `explain_iter`.
        """
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise OptionError(f"batch_size is {batch_size!r}, expected a whole number from 1 on")
        return self._intake.read(
            images, target, batch_size=batch_size, on_image_error=on_image_error
        )

    def method(
        self,
        name: str,
        *,
        scales: Sequence[int] | None = None,
        fit: Fit = "crop",
        **options: float,
    ) -> Callable[[Photos], Explanation]:
        """Return what explains photos that `read` yields by one method.

        Args:
            name: Name of the method.
            scales: See `explain`.
            fit: See `explain`.
            **options: See `explain`.

        Raises:
            OptionError: as `explain`, before there is a photo.
        """
        entry, checked = find_method(name), checked_options(name, options)
        sizes = chosen_scales(scales, method=name, info=self.info, fixed_size=self._fixed_size)
        self.check_outputs(f"method {name!r}", entry.outputs)

        def explain(photos: Photos) -> Explanation:
            batch, placements = self._intake.fit(photos, sizes[0], fit)
            found = self._maps(batch, entry, sizes, checked)
            rows = batch.image_index.tolist()
            return Explanation(
                maps=found.maps,
                raw=found.raw,
                targets=found.targets,
                logits=found.logits,
                scales_used=found.scales_used,
                degenerate=found.degenerate,
                scales=sizes,
                method=name,
                photos=tuple([photos.photos[i] for i in rows]),
                names=tuple([photos.names[i] for i in rows]),
                placements=tuple([placements[i] for i in rows]),
                class_names=self.info.class_names,
                probability=self.info.probability,
                versions=self.versions,
            )

        return explain

    def prepare(
        self, images: Iterable[Image], *, fit: Fit = "crop"
    ) -> tuple[NDArray[np.float32], tuple[Placement, ...]]:
        """Return images as the model takes them, for passes of one's own: see `model`.

        Args:
            images: Arrays [H, W, 3] or paths, at least one.
            fit: See `explain`.

        Returns:
            [B, channels, S, S] in 0..255, and how each photo lies on that grid.

        Raises:
            ImageError: as `explain`.
        """
        listed = list(images)
        if not listed:
            raise InputError("got no images, expected at least one")
        (photos,) = self.read(listed, batch_size=len(listed))
        batch, placements = self._intake.fit(photos, self.info.input_size, fit)
        return batch.images, placements

    def _maps(
        self, batch: Batch, method: Method, sizes: tuple[int, ...], options: Mapping[str, float]
    ) -> Maps:
        """Compute maps where the engine is: on the host, or on a GPU from end to end."""
        if self._on_device is not None and method.on_device is not None:
            return self._on_device(batch, method, sizes)
        if isinstance(batch.images, DeviceArray):
            others = ", ".join(name for name, one in METHODS.items() if one.on_device)
            raise OptionError(
                f"{method.title} computes on the host, but the images are on a GPU: pass host "
                f"arrays, or use one of {others}"
            )
        result = method.function(self.model, batch, sizes, **options)
        maps, degenerate = (as_masks if method.bounded else normalise)(result.raw)
        return Maps(result.raw, result.logits, result.targets, result.scales_used, maps, degenerate)

    @property
    def passes(self) -> Model:
        """Deprecated name of `model`."""
        warnings.warn("Explainer.passes is now .model", DeprecationWarning, stacklevel=2)
        return self.model

    def check_outputs(self, name: str, outputs: Iterable[str]) -> None:
        """Raise OptionError if the file lacks an output that `name` needs."""
        for output in sorted(set(outputs) - self.outputs):
            raise OptionError(
                f"{name} needs the output {output!r}, which this explainer file lacks: "
                f"{remedy(output)}"
            )

    def close(self) -> None:
        """Free the engine, and the device unless it was given as one."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _engine(backend: str | Engine, earlier: Mapping[str, Any]) -> Engine:
    """Return the engine that was asked for, by itself or by its name."""
    if not isinstance(backend, str):
        if earlier:
            raise OptionError(
                f"got the options {', '.join(earlier)} beside an engine: give them to the engine"
            )
        return backend
    # None and False were the defaults of 0.1; 0 was not, though it equals False.
    given = {name: one for name, one in earlier.items() if one is not None and one is not False}
    engine = named_engine(backend, **given)
    if earlier:
        options = ", ".join(f"{option}=..." for option in given)
        instead = f"klieg.{type(engine).__name__}({options})"
        warnings.warn(
            f"options of an engine are given to it: backend={instead}",
            DeprecationWarning,
            stacklevel=3,
        )
    return engine
