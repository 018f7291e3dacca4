"""The Explainer: an explainer file, an engine, and images in batches."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from klieg.backends import Backend, open_backend
from klieg.errors import ImageError, InputError, OptionError, TargetError
from klieg.explainer_file import ExplainerInfo, read_explainer
from klieg.explanation import Explanation, as_masks, concatenate, normalise
from klieg.images.fitting import Fit, Placement
from klieg.loading import Image as Image
from klieg.loading import Loaded, as_batch, listed_images, load
from klieg.methods.passes import Passes
from klieg.methods.table import check_target, checked_options, find_method
from klieg.scales import chosen_scales
from klieg.targets import Targets, is_single


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
        self._fixed_size, self._outputs = file.fixed_size, file.outputs
        self._backend = open_backend(backend, file, providers=providers, threads=threads)
        self._passes = Passes(self._backend, file.info, several_targets=file.several_targets)
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
    def passes(self) -> Passes:
        """Checked passes through the engine, as the methods use them."""
        return self._passes

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classes

    @property
    def channels(self) -> int:
        """Number of channels of the model's images."""
        return self._channels

    @property
    def versions(self) -> Mapping[str, str]:
        """What computes: klieg, the engine, the digest of the explainer file."""
        return self._versions

    @property
    def outputs(self) -> frozenset[str]:
        """What the explainer file computes."""
        return self._outputs

    def check_outputs(self, name: str, outputs: Iterable[str], *, export_for: str) -> None:
        """Raise OptionError if the file lacks an output that `name` needs."""
        missing = sorted(set(outputs) - self._outputs)
        if missing:
            option = "--masker NAME" if missing[0] == "mask" else f"--methods {export_for}"
            raise OptionError(
                f"{name} needs the output {missing[0]!r}, which this explainer file lacks: "
                f"export the model again with `{option}`"
            )

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
                list of [H, W, 3] arrays and paths, sizes may differ.
            method: What to compute.
                From the layer: "cameras", "gradcam", "gradcam++", "hirescam", "layercam",
                "normgrad", "linear_approx", and "cam" where pool and linear layer follow.
                From a file exported for them: "saliency", "gradient_x_input", "smoothgrad",
                "integrated_gradients", "guided_backprop", "deconvnet", "excitation_backprop",
                "contrastive_excitation", and by hundreds of passes "meaningful", "extremal".
                From any file, by thousands of passes: "rise".
                From a file with a masking model: "casm", one mask whatever the class.
            target: The class to explain: a number, a name, None for the predicted one, or a list
                with one of these per image, or with a list of these per image: the result then
                has one row per image and class, in order. "casm" takes none.
            scales: Ascending image sizes in pixels of a multi-scale method; the maps have the
                first. None for the file's own.
            fit: How a photo becomes square: "crop" its centre, "letterbox" it between grey bars, or
                "stretch" it.
            batch_size: Number of images that are in memory with all their activations at once.
            **options: Numbers that the method takes: "smoothgrad" samples (25), noise (0.15 of the
                image's range) and seed (0); "integrated_gradients" steps (32); "meaningful" and
                "extremal" steps (100) and cells (28 along each side of a mask); "rise" masks
                (2000), cells (7 along each side), visible (0.5 of them) and seed (0).

        Returns:
            Maps, raw maps, logits and more, in the order of the images.

        Raises:
            ImageError: an image is unreadable, too large, or of a wrong shape, type or range.
            TargetError: a class does not exist, or their number is not that of the images.
            OptionError: an option has an impossible value, the method has no such option, or the
                file was not exported for it.
            BackendError: the engine failed, or the model returned NaN.
        """
        check_target(method, target)
        listed = listed_images(images)
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
            listed, method=method, target=target, scales=scales, fit=fit, batch_size=batch_size,
            on_image_error=None, **options,
        )  # fmt: skip
        return concatenate(list(parts))

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
        check_target(method, target)
        checked = checked_options(method, options)
        sizes = chosen_scales(scales, method=method, info=self._info, fixed_size=self._fixed_size)
        self.check_outputs(f"method {method!r}", find_method(method).outputs, export_for=method)
        if batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}, expected at least 1")
        loaded = load(
            images, target, size=sizes[0], fit=fit, classes=self._classes,
            class_names=self._info.class_names, on_image_error=on_image_error,
        )  # fmt: skip
        batches = iter(lambda: list(islice(loaded, batch_size)), [])
        return (self._explain_batch(images, method, sizes, checked) for images in batches)

    def prepare(
        self, images: Iterable[Image], *, fit: Fit = "crop"
    ) -> tuple[NDArray[np.float32], tuple[Placement, ...]]:
        """Return images as the model takes them, for passes of one's own: see `passes`.

        Args:
            images: Arrays [H, W, 3] or paths, at least one.
            fit: See `explain`.

        Returns:
            [B, channels, S, S] in 0..255, and how each photo lies on that grid.

        Raises:
            ImageError: as `explain`.
        """
        loaded = list(
            load(
                images, None, size=self._info.input_size, fit=fit, classes=self._classes,
                class_names=None, on_image_error=None,
            )
        )  # fmt: skip
        placements = tuple(one.placement for one in loaded)
        return as_batch(loaded, self._channels).images, placements

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

    def _explain_batch(
        self,
        images: Sequence[Loaded],
        method: str,
        sizes: tuple[int, ...],
        options: Mapping[str, float],
    ) -> Explanation:
        batch = as_batch(images, self._channels)
        entry = find_method(method)
        result = entry.function(self._passes, batch, sizes, **options)
        maps, degenerate = (as_masks if entry.bounded else normalise)(result.raw)
        rows = [images[owner] for owner in batch.owner]
        return Explanation(
            maps=maps,
            raw=result.raw,
            targets=result.targets,
            logits=result.logits,
            scales_used=result.scales_used,
            degenerate=degenerate,
            scales=sizes,
            method=method,
            photos=tuple(row.photo for row in rows),
            names=tuple(row.name for row in rows),
            placements=tuple(row.placement for row in rows),
            class_names=self._info.class_names,
            probability=self._info.probability,
            versions=self._versions,
        )
