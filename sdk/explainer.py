"""The Explainer: an explainer file, an engine, and images in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import ImageError, InputError, OptionError, TargetError
from klieg.explanation import Explanation, concatenate
from klieg.images.fitting import Fit, Placement
from klieg.images.loading import Image as Image
from klieg.images.loading import Loaded, as_batch, listed_images, load
from klieg.images.on_device import device_batches
from klieg.images.targets import Targets, is_single
from klieg.kernels.device.sharing import is_on_device
from klieg.methods.passes import Batch, DeviceBatch
from klieg.methods.scales import chosen_scales
from klieg.methods.table import check_target, checked_options, find_method
from klieg.opened import OpenedFile


class Explainer(OpenedFile):
    """Explains images with one explainer file.

    >>> with Explainer("resnet50.onnx") as explainer:  # doctest: +SKIP
    ...     explanation = explainer.explain(["cat.jpg", "dog.jpg"])
    ...     explanation.maps.shape
    (2, 224, 224)

    Several threads may share one Explainer.
    """

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
        listed: Any = images if is_on_device(images) else listed_images(images)
        if len(listed) == 0:
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
        batches: Iterator[tuple[Sequence[Loaded], Batch | DeviceBatch]]
        if is_on_device(images):
            batches = device_batches(
                images, target, backend=self._backend, size=sizes[0], channels=self._channels,
                classes=self._classes, class_names=self._info.class_names, batch_size=batch_size,
            )  # fmt: skip
        else:
            loaded = load(
                images, target, size=sizes[0], fit=fit, classes=self._classes,
                class_names=self._info.class_names, on_image_error=on_image_error,
            )  # fmt: skip
            listed = iter(lambda: list(islice(loaded, batch_size)), [])
            batches = ((part, as_batch(part, self._channels)) for part in listed)
        return (self._explanation(part, batch, method, sizes, checked) for part, batch in batches)

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

    def _explanation(
        self,
        images: Sequence[Loaded],
        batch: Batch | DeviceBatch,
        method: str,
        sizes: tuple[int, ...],
        options: Mapping[str, float],
    ) -> Explanation:
        found = self._running(batch, method, sizes, options)
        rows = [images[owner] for owner in batch.owner]
        return Explanation(
            maps=found.maps,
            raw=found.raw,
            targets=found.targets,
            logits=found.logits,
            scales_used=found.scales_used,
            degenerate=found.degenerate,
            scales=sizes,
            method=method,
            photos=tuple(row.photo for row in rows),
            names=tuple(row.name for row in rows),
            placements=tuple(row.placement for row in rows),
            class_names=self._info.class_names,
            probability=self._info.probability,
            versions=self._versions,
        )
