"""The data randomisation test: masks of maskers trained with true and with shuffled labels."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from klieg.errors import DataError, InputError, OptionError
from klieg.evaluation.options import check_at_least
from klieg.evaluation.sanity.randomisation import SIMILARITIES, defined_means, find_similarities
from klieg.export.classifiers.sources import Source
from klieg.storage.table import write_table
from klieg.training.data.batches import centre_crop
from klieg.training.data.photos import Photo, find_photos
from klieg.training.model.critics import logits_of
from klieg.training.model.taps import TappedClassifier, evaluating
from klieg.training.model.trained_masker import TrainedMasker
from klieg.training.run import train
from klieg.training.settings.configuration import with_absolute_paths
from klieg.training.settings.options import TrainingOptions
from klieg.training.setup import source_of

RESULTS: Final = "data_randomisation.csv"
BATCH: Final = 16


@dataclass(frozen=True)
class DataRandomisation:
    """How like each other the masks of two maskers are: one of true, one of shuffled labels."""

    metrics: tuple[str, ...]
    """[M] names of the similarities."""
    photos: tuple[str, ...]
    """[N] paths as given."""
    per_image: NDArray[np.float64]
    """[M, N], NaN where a mask is constant, so that nothing can be compared."""
    moved: float
    """Share of the photos trained on whose label the permutation changed, 0..1: photos of the same
    class may swap theirs."""

    @property
    def similarities(self) -> NDArray[np.float64]:
        """[M] means over the photos that can be compared, NaN where there is none."""
        return defined_means(self.per_image)

    @property
    def undefined(self) -> NDArray[np.int64]:
        """[M] number of photos that are left out of a mean."""
        return np.asarray((~np.isfinite(self.per_image)).sum(axis=1))


def data_randomisation(
    options: TrainingOptions,
    folder: str | os.PathLike[str],
    *,
    photos: Sequence[str | os.PathLike[str]],
    seed: int = 0,
    similarities: Sequence[str] = tuple(SIMILARITIES),
    classifier: nn.Module | None = None,
    accelerator: str = "auto",
    progress: bool = True,
) -> DataRandomisation:
    """Train a masker with the labels and one with shuffled labels, and compare their masks.

    Adebayo et al.: Sanity checks for saliency maps, NeurIPS 2018; for maskers Phang, Park, Geras:
    Investigating and simplifying masking-based saliency methods, 2020. Masks that stay alike do not
    show what the labels taught. The labels are permuted, so that classes keep their frequencies;
    the code released with the second paper drew a class of 0..999 for each photo instead. The runs
    differ in nothing else: they start from the same weights and see the same crops. The classifier
    keeps what its own labels taught it, so masks that only follow its activations may stay alike.

    Both runs go on where they were interrupted. The folder gets their folders `labels` and
    `shuffled`, the table of shuffled labels, and data_randomisation.csv with a row per photo. Needs
    the extra `eval` too.

    Args:
        options: The run with the labels.
        folder: For the files; it may hold an interrupted test of the same options and seed.
        photos: N paths that were not trained on, such as those that `data.held_out` keeps.
        seed: Decides the permutation.
        similarities: Some of "spearman", "spearman_absolute", "ssim" and "hog".
        classifier: See `train`.
        accelerator: See `train`; masks are compared on the processor.
        progress: See `train`.

    Raises:
        OptionError: an option has an impossible value, or labels are not used.
        InputError: there are no photos, or masks are too small for a similarity.
        DataError: a photo cannot be used or was trained on, or no label changes.
        TrainingError: as `train`.
    """
    measures = find_similarities(similarities)
    options, root = with_absolute_paths(options, Path()), Path(os.path.abspath(folder))
    source = source_of(options, classifier)
    for measure in measures:  # what is too small for one is known before hours of training
        measure(*np.zeros((2, 1, source.input_size, source.input_size), np.float32))
    classes = _classes(source, options.data.image_size)
    shuffled = shuffled_labels(options, root / f"labels-{seed}.csv", classes=classes, seed=seed)
    training, permuted = (
        find_photos(run.data, classes=classes, seed=run.seed).training
        for run in (options, shuffled)
    )
    moved = np.mean([a.label != b.label for a, b in zip(training, permuted, strict=True)])
    held_out = _held_out(photos, training)
    maskers = [
        train(run, root / name, classifier=classifier, accelerator=accelerator, progress=progress)
        for name, run in (("labels", options), ("shuffled", shuffled))
    ]
    readers = [_Reader(trained, source) for trained in maskers]
    per_image = np.empty((len(measures), len(held_out)))
    for start in range(0, len(held_out), BATCH):
        part = slice(start, start + BATCH)
        crops = torch.stack([centre_crop(photo, source.input_size) for photo in held_out[part]])
        masks = [reader.masks(crops) for reader in readers]
        per_image[:, part] = [measure(*masks) for measure in measures]
    names = tuple(os.fspath(photo) for photo in photos)
    columns = zip(names, per_image.T, strict=True)
    write_table(
        root / RESULTS,
        [
            {"photo": name, **dict(zip(similarities, row.tolist(), strict=True))}
            for name, row in columns
        ],
    )
    return DataRandomisation(tuple(similarities), names, per_image, float(moved))


def shuffled_labels(
    options: TrainingOptions, path: str | os.PathLike[str], *, classes: int, seed: int
) -> TrainingOptions:
    """Write a table of the photos of a run with their labels permuted.

    The photos that the run would draw, in their order, so that the same ones are held out; their
    labels are permuted too.

    Args:
        options: The run with the labels; a relative data.path is taken from the working folder.
        path: The CSV file; a run with the returned options reads it.
        classes: Number of classes of the classifier.
        seed: Decides the permutation.

    Returns:
        Options of the same run on that table.

    Raises:
        OptionError: the run uses no labels, or the seed is negative.
        DataError: the photos cannot be used, or no label changes.
    """
    if options.data.labels != "given":
        raise OptionError(
            f"data.labels is {options.data.labels!r}, so that shuffling labels changes nothing: "
            "expected 'given'"
        )
    check_at_least(0, seed=seed)
    photos = find_photos(
        replace(options.data, held_out=0), classes=classes, seed=options.seed
    ).training
    labels = np.array([photo.label for photo in photos])
    permuted = np.random.default_rng(seed).permutation(labels)
    if (labels == permuted).all():
        raise DataError(
            f"no label of {len(photos)} photos changes: expected photos of several classes, or try "
            "another seed"
        )
    rows = [
        {"file": os.path.abspath(photo.path), "class_index": label}
        for photo, label in zip(photos, permuted.tolist(), strict=True)
    ]
    write_table(Path(path), rows)
    data = replace(
        options.data, path=os.path.abspath(path), layout="csv", classes=None, per_class=None
    )
    return replace(options, data=data)


class _Reader:
    """A masker with the classifier that it reads, on the processor."""

    def __init__(self, trained: TrainedMasker, source: Source) -> None:
        # A copy, as reading layers changes a classifier.
        classifier = copy.deepcopy(trained.deployed(cast(nn.Module, source.model))).cpu()
        self._masker = trained.masker
        self._reader = TappedClassifier(classifier, trained.masker.taps).eval()
        self._mean, self._std = (
            torch.tensor(numbers)[:, None, None] for numbers in (source.mean, source.std)
        )

    @torch.no_grad()
    def masks(self, crops: Tensor) -> NDArray[np.float32]:
        """Return the masks [B, S, S] in 0..1 of crops [B, 3, S, S] uint8."""
        _, activations = self._reader((crops / 255 - self._mean) / self._std)
        height, width = crops.shape[2:]
        masks: NDArray[np.float32] = self._masker(activations, (height, width))[:, 0].numpy()
        return masks


def _classes(source: Source, size: int) -> int:
    """Return how many classes a classifier has."""
    model = cast(nn.Module, source.model)
    blank = torch.zeros(1, len(source.mean), size, size)
    with evaluating(model), torch.no_grad():
        parameter = next(model.parameters(), blank)
        return logits_of(model, blank.to(parameter.device)).shape[1]


def _held_out(photos: Sequence[str | os.PathLike[str]], training: Sequence[Photo]) -> list[Photo]:
    """Return the photos to compare masks of."""
    if len(photos) == 0:
        raise InputError("got no photos, expected at least one that was not trained on")
    trained_on = {photo.path.resolve() for photo in training}
    found = [Photo(Path(path), 0) for path in photos]
    for photo in found:
        if not photo.path.is_file():
            raise DataError(f"there is no file {photo.path}")
        if photo.path.resolve() in trained_on:
            raise DataError(
                f"{photo.path} is one of the photos to train on: expected others, such as those "
                "that data.held_out keeps"
            )
    return found
