"""The result of explaining a batch of images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError
from klieg.images.fitting import Placement
from klieg.kernels.device.array import DeviceArray
from klieg.maps.regions import Rule, binarise, bounding_boxes, thresholds
from klieg.model_file.explainer_file import Probability
from klieg.model_file.methods import find_method
from klieg.model_file.probabilities import probabilities
from klieg.results.folder import ResultFolder
from klieg.results.formats import DEFAULT_FORMATS, Result


@dataclass(frozen=True)
class Explanation:
    """Saliency maps of B images, in the order given, with everything they rest on.

    Where several classes were asked of an image, it stands here once per class: B counts pairs.
    """

    maps: NDArray[np.float32]
    """[B, S, S] in 0..1 on the model's input grid: relu of `raw`, scaled to its own maximum; of a
    mask `raw` itself."""
    raw: NDArray[np.float32]
    """[B, S, S] as the method computes them, before relu and scaling."""
    targets: NDArray[np.int64]
    """[B] the class explained: the one asked for, else the predicted one."""
    logits: NDArray[np.float32]
    """[B, classes] at the first scale."""
    scales_used: NDArray[np.bool_]
    """[B, T] which of `scales` count in each map."""
    degenerate: NDArray[np.bool_]
    """[B] True where `raw` has no positive structure; the map is then all zeros, but a flat mask
    stays what it is."""
    scales: tuple[int, ...]
    """The T image sizes in pixels."""
    method: str
    """Name of the method."""
    photos: tuple[NDArray[Any] | DeviceArray, ...]
    """B photos as given, [H, W, 3] RGB in 0..255, H and W of their own; what was given on a GPU
    stays there."""
    names: tuple[str, ...]
    """B paths as given, for arrays the number of the image in the call."""
    placements: tuple[Placement, ...]
    """How each photo lies on the model's input grid."""
    class_names: tuple[str, ...] | None
    """One name per class, if the explainer file has them."""
    probability: Probability
    """How logits become probabilities."""
    versions: Mapping[str, str]
    """What computed this: klieg, the engine, the digest of the explainer file."""

    def __len__(self) -> int:
        return len(self.maps)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """[B, classes] in 0..1."""
        return probabilities(self.logits, self.probability)

    def class_name(self, index: int) -> str:
        """Return the name of class `index`, its number if the file has no names."""
        return f"class {index}" if self.class_names is None else self.class_names[index]

    def on_image(self, i: int) -> NDArray[np.float32]:
        """Return the map of image i on the pixel grid of the photo as given.

        Args:
            i: Number of the image in the batch.

        Returns:
            [H, W] float32 in 0..1; 0 where the model did not see the photo, outside a crop.
        """
        return self.placements[i].to_photo(self.maps[i])

    def binary(self, *, rule: Rule = "mean") -> NDArray[np.bool_]:
        """Return which pixels are salient, [B, S, S] on the model's input grid.

        Args:
            rule: "mean" keeps what is above a map's own mean, "quantile" a share of the pixels
                that is about that mean.
        """
        return binarise(self.maps, rule=rule)

    def boxes(self, *, rule: Rule = "mean") -> NDArray[np.int64]:
        """Return the box round the largest salient component, on the model's input grid.

        Args:
            rule: See `binary`.

        Returns:
            [B, 4]: xmin, ymin, xmax, ymax, the ends exclusive; all 0 where nothing is salient.
        """
        return bounding_boxes(self.binary(rule=rule))

    def binary_on_image(self, i: int, *, rule: Rule = "mean") -> NDArray[np.bool_]:
        """Return which pixels of the photo as given are salient.

        The threshold is that of `binary`: the enlarged map is cut, so outlines are smooth.

        Args:
            i: Number of the image in the batch.
            rule: See `binary`.

        Returns:
            [H, W]; False where the model did not see the photo.
        """
        (threshold,) = thresholds(self.maps[i : i + 1], rule=rule)
        return np.asarray(self.on_image(i) > threshold)

    def box_on_image(self, i: int, *, rule: Rule = "mean") -> NDArray[np.int64]:
        """Return the box round the largest component of `binary_on_image`.

        Args:
            i: Number of the image in the batch.
            rule: See `binary`.

        Returns:
            [4]: xmin, ymin, xmax, ymax in pixels of the photo, the ends exclusive; all 0 where
            nothing is salient.
        """
        return np.asarray(bounding_boxes(self.binary_on_image(i, rule=rule)[None])[0])

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        formats: Sequence[str] = DEFAULT_FORMATS,
        views: Rule | None = None,
    ) -> list[Path]:
        """Write files for every image: by default an overlay PNG, and the map as `.npy`.

        Args:
            folder: Created if missing. A file of the same name is replaced once its successor is
                complete.
            formats: Names of output formats; see `klieg.results.formats`.
            views: With a rule of `binary`, also write the photo with its salient part alone,
                removed and inpainted, side by side as `-views.png`.

        Returns:
            The files of the first format, in order.

        Raises:
            OptionError: there is no such format.
            InputError: the photos are on a GPU.
        """
        asked = tuple(dict.fromkeys((*formats, *(("views",) if views else ()))))
        results = ResultFolder(Path(folder), asked)
        return [
            results.save([self.result(i, rule=views or "mean")])[0].files[asked[0]]
            for i in range(len(self))
        ]

    def result(self, i: int, *, rule: Rule = "mean") -> Result:
        """Return what an output format is given of image i: plain values.

        Args:
            i: Number of the image in the batch.
            rule: See `binary`.

        Raises:
            InputError: the photo is on a GPU.
        """
        photo, target = self.photos[i], int(self.targets[i])
        if isinstance(photo, DeviceArray):
            raise InputError(
                "the photo is on a GPU, and pictures are drawn on the host: explain host arrays, "
                "or draw `Explanation.maps` yourself"
            )
        predicted, method = int(self.logits[i].argmax()), find_method(self.method)
        return Result(
            name=self.names[i],
            photo=np.asarray(np.rint(photo), dtype=np.uint8),
            saliency=self.on_image(i),
            threshold=float(thresholds(self.maps[i : i + 1], rule=rule)[0]),
            rule=rule,
            method=self.method,
            method_title=method.title,
            pixelwise=method.pixelwise,
            target=target,
            class_name=self.class_name(target),
            probability=float(self.probabilities[i, target]),
            predicted=None if predicted == target else self.class_name(predicted),
            scales=self.scales,
            scales_used=tuple(self.scales_used[i].tolist()),
            degenerate=bool(self.degenerate[i]),
        )


def concatenate(parts: Sequence[Explanation]) -> Explanation:
    """Join the explanations of consecutive batches of one call."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for field in fields(Explanation):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            joined[field.name] = np.concatenate(values)
        elif field.name in ("photos", "names", "placements"):
            joined[field.name] = tuple(item for value in values for item in value)
        else:
            joined[field.name] = values[0]
    return Explanation(**joined)
