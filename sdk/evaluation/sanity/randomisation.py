"""The model parameter randomisation test: maps before and after weights are re-initialised."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from klieg.errors import EvaluationError, InputError, OptionError
from klieg.evaluation.metrics import similarity
from klieg.evaluation.options import check_at_least
from klieg.explainer import Explainer
from klieg.images.fitting import Fit
from klieg.images.intake import Image
from klieg.model_file.explainer_file import ExplainerFile, read_explainer
from klieg.model_file.methods import find_method
from klieg.model_file.outputs import ALWAYS
from klieg.model_file.subgraph import subgraph

if TYPE_CHECKING:
    from klieg.export.randomised.reinitialisation import Layer

Mode = Literal["cascading", "independent"]
Maps = NDArray[np.float32]  # [N, S, S] in 0..1

SIMILARITIES: Final[Mapping[str, Callable[[Maps, Maps], NDArray[np.float64]]]] = MappingProxyType(
    {
        "spearman": similarity.spearman,
        "spearman_absolute": similarity.spearman_absolute,
        "ssim": similarity.ssim,
        "hog": similarity.hog_similarity,
    }
)


@dataclass(frozen=True)
class RandomisationResult:
    """How like the original maps those of a randomised model are, the output layer first."""

    layers: tuple[str, ...]
    """[L] what was re-initialised: a layer, or the last and the first layer of a group."""
    metrics: tuple[str, ...]
    """[M] names of the similarities."""
    per_image: NDArray[np.float64]
    """[L, M, N], NaN where a map is constant, so that nothing can be compared."""
    targets: NDArray[np.int64] | None
    """[N] the classes explained, by the original model and the others; None for a method that
    explains no class."""

    @property
    def similarities(self) -> NDArray[np.float64]:
        """[L, M] means over the images that can be compared, NaN where there is none."""
        return defined_means(self.per_image)

    @property
    def undefined(self) -> NDArray[np.int64]:
        """[L, M] number of images that are left out of a mean."""
        return np.asarray((~np.isfinite(self.per_image)).sum(axis=2))


def randomisation_test(
    explainer_path: str | os.PathLike[str],
    images: Sequence[Image],
    *,
    method: str = "cameras",
    mode: Mode = "cascading",
    similarities: Sequence[str] = tuple(SIMILARITIES),
    groups: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    scales: Sequence[int] | None = None,
    fit: Fit = "crop",
    **options: float,
) -> RandomisationResult:
    """Compare the maps of a model with those after its weights are re-initialised.

    Adebayo et al.: Sanity checks for saliency maps, NeurIPS 2018. A method whose maps stay alike
    does not show what the model learned. "cascading" draws the weights from the output down to a
    layer, "independent" those of one layer only; `klieg.export.randomised.reinitialisation`
    says how they are drawn. Maps are compared as `Explanation.maps` has them, for the class
    that the original model predicts.

    Model by model, each on all photos: an engine is opened once per layer and one at a time. The
    original maps are computed once and wait on disk, so memory holds one batch, however many photos
    there are. All files are in a temporary folder that is removed, 4 S^2 bytes per photo and one
    explainer file.

    Args:
        explainer_path: A file that serves the method.
        images: N arrays [H, W, 3] in 0..255 or paths; they are read once per layer.
        method: See `Explainer.explain`. The masker of "casm" keeps its weights.
        mode: "cascading" or "independent".
        similarities: Some of "spearman", "spearman_absolute", "ssim" and "hog".
        groups: Into how many groups neighbouring layers are joined; None for each by itself.
        seed: Seed of the weights.
        batch_size: See `Explainer.explain`.
        scales: See `Explainer.explain`.
        fit: See `Explainer.explain`.
        **options: Numbers that the method takes.

    Returns:
        Similarities per layer or group, measure and photo.

    Raises:
        OptionError: an option has an impossible value, or the file does not serve the method.
        InputError: there are no images, or the maps are too small for a similarity.
        ImageError: an image cannot be used.
        ExplainerFileError: the file is no explainer.
        ExportError: its weights cannot be re-initialised.
        EvaluationError: onnx is not installed, or the file computes in bfloat16.
        BackendError: the engine failed, or a model returned NaN.
    """
    _check(images, mode, groups, seed, batch_size)
    compared = find_similarities(similarities)
    file = read_explainer(explainer_path)
    if file.info.precision == "bfloat16":
        raise EvaluationError(
            f"{file.path} computes in bfloat16, which this test cannot: its engine is ONNX Runtime "
            "on a processor; export the model with --precision float32 or float16 and test that "
            "file, its weights are the same up to rounding"
        )
    model, chosen = _opened(file, method)
    parts = _grouped(chosen, groups)
    per_image = np.empty((len(parts), len(compared), len(images)))
    with tempfile.TemporaryDirectory(prefix="klieg-") as folder:
        run = _Run(images, method, batch_size, scales, fit, options)
        with Explainer(explainer_path) as explainer:
            if not find_method(method).class_free:
                run.targets = _predicted(explainer, images, fit, batch_size)
            originals = _stored(run.maps(explainer), len(images), Path(folder) / "maps")
        for row, path in zip(
            per_image, _randomised(model, parts, mode, seed, Path(folder)), strict=True
        ):
            with Explainer(path) as explainer:
                for batch, maps in run.maps(explainer):
                    row[:, batch] = [measure(originals[batch], maps) for measure in compared]
        del originals  # Windows removes no file that is mapped
    return RandomisationResult(
        tuple(_name(part) for part in parts), tuple(similarities), per_image, run.targets
    )


def find_similarities(
    names: Sequence[str],
) -> list[Callable[[Maps, Maps], NDArray[np.float64]]]:
    """Return entries of the table or raise OptionError."""
    if not names or any(name not in SIMILARITIES for name in names):
        raise OptionError(
            f"similarities are {list(names)}, expected some of {', '.join(SIMILARITIES)}"
        )
    return [SIMILARITIES[name] for name in names]


def defined_means(per_image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means [...] of [..., N] over what is not NaN, NaN where nothing is."""
    defined = np.isfinite(per_image)
    total = np.where(defined, per_image, 0).sum(axis=-1)
    number = defined.sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


@dataclass
class _Run:
    """One method on all photos, with whichever model."""

    images: Sequence[Image]
    method: str
    batch_size: int
    scales: Sequence[int] | None
    fit: Fit
    options: Mapping[str, float]
    targets: NDArray[np.int64] | None = None  # [N]

    def maps(self, explainer: Explainer) -> Iterator[tuple[slice, Maps]]:
        """Yield the numbers of a batch of photos and their maps [B, S, S]."""
        start = 0
        for part in explainer.explain_iter(
            self.images,
            method=self.method,
            scales=self.scales,
            fit=self.fit,
            target=None if self.targets is None else self.targets.tolist(),
            batch_size=self.batch_size,
            on_image_error=None,
            **self.options,
        ):
            yield slice(start, start + len(part)), part.maps
            start += len(part)


def _opened(file: ExplainerFile, method: str) -> tuple[Any, list[Layer]]:
    """Return the part of the file that the method needs, as onnx's ModelProto, and its layers."""
    try:
        from klieg.export.randomised.reinitialisation import layers, parsed
    except ImportError as error:
        raise EvaluationError(
            f"re-initialising weights needs {error.name}: pip install 'klieg[eval]'"
        ) from error
    wanted = (ALWAYS | {*find_method(method).outputs}) & file.outputs
    model = parsed(subgraph(file.data, wanted))
    return model, layers(model)


def _randomised(
    model: Any, parts: list[list[Layer]], mode: Mode, seed: int, folder: Path
) -> Iterator[Path]:
    """Yield the file of one randomised model after another, always the same path."""
    from klieg.export.randomised.reinitialisation import reinitialised, save

    path = folder / "randomised.onnx"
    for number, part in enumerate(parts):
        drawn = part if mode == "independent" else [one for p in parts[: number + 1] for one in p]
        save(reinitialised(model, drawn, seed=seed), path)
        yield path


def _predicted(
    explainer: Explainer, images: Sequence[Image], fit: Fit, batch_size: int
) -> NDArray[np.int64]:
    """Return the class [N] that the model finds most likely for each photo."""
    found = []
    for start in range(0, len(images), batch_size):
        batch, _ = explainer.prepare(images[start : start + batch_size], fit=fit)
        found.append(explainer.model.logits(batch).argmax(axis=1))
    return np.concatenate(found)


def _stored(batches: Iterator[tuple[slice, Maps]], count: int, path: Path) -> Maps:
    """Return all maps [N, S, S] as an array that lies in a file."""
    stored: np.memmap[Any, np.dtype[np.float32]] | None = None
    for numbers, maps in batches:
        if stored is None:
            stored = np.memmap(path, np.float32, "w+", shape=(count, *maps.shape[1:]))
        stored[numbers] = maps
    if stored is None:
        raise InputError("got no images, expected at least one")
    return stored


def _grouped(chosen: list[Layer], groups: int | None) -> list[list[Layer]]:
    """Join neighbouring layers to so many groups of nearly equal length, none of them empty."""
    bounds = np.linspace(0, len(chosen), min(groups or len(chosen), len(chosen)) + 1).round()
    edges = bounds.astype(int).tolist()
    return [chosen[start:stop] for start, stop in pairwise(edges)]


def _name(part: list[Layer]) -> str:
    return part[0].name if len(part) == 1 else f"{part[0].name} .. {part[-1].name}"


def _check(
    images: Sequence[Image], mode: str, groups: int | None, seed: int, batch_size: int
) -> None:
    if mode not in get_args(Mode):
        raise OptionError(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    check_at_least(1, groups=groups, batch_size=batch_size)
    check_at_least(0, seed=seed)
    if len(images) == 0:
        raise InputError("got no images, expected at least one")
