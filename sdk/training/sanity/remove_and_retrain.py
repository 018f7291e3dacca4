"""ROAR, remove and retrain: the accuracy that is lost with the pixels a map ranks highest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from klieg.errors import CheckpointError, DataError, OptionError
from klieg.evaluation.options import check_names
from klieg.explainer import Explainer
from klieg.model_file.methods import find_method
from klieg.storage.table import Tables, check_configuration, write_table
from klieg.training.data.photos import Photos, find_photos
from klieg.training.sanity.erasure import RANDOM, ErasedPhotos, maps_of
from klieg.training.sanity.retraining import Retraining
from klieg.training.settings.options import DataOptions

DATABASE, RESULTS, CONFIGURATION = "roar.sqlite", "roar.csv", "roar.json"
COLUMNS: Final = ("method", "share", "accuracy")
UNMODIFIED: Final = "none"
"""The method's name in the line of share 0."""
SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class RoarResult:
    """Accuracies of classifiers that were trained and tested on photos without their top pixels."""

    methods: tuple[str, ...]
    """[M], the last one "random": pixels in a random order."""
    shares: tuple[float, ...]
    """[T] shares of the pixels that are removed, ascending from 0."""
    accuracies: NDArray[np.float64]
    """[M, T] in 0..1; those of share 0 are the same for all methods."""


def roar(
    explainer_path: str | os.PathLike[str],
    data: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    classifier: str | Callable[[], nn.Module],
    methods: Sequence[str],
    shares: Sequence[float] = SHARES,
    epochs: int,
    held_out: float = 0.2,
    batch_size: int = 32,
    optimiser: str = "adam",
    learning_rate: float = 1e-3,
    seed: int = 0,
    accelerator: str = "cpu",
) -> RoarResult:
    """Remove the pixels that maps rank highest, retrain, and see how much accuracy is lost.

    Hooker, Erhan, Kindermans, Kim: A benchmark for interpretability methods in deep neural
    networks, NeurIPS 2019. Retraining tells lost information from unfamiliar images. Maps are for
    the class of each photo's label; removed pixels get the model's mean colour, those of photos
    held out too; every classifier starts from the same weights and sees the photos in the same
    order, without augmentation. A method says something only where it lies below "random". Where
    accuracy rises with the share, the shape of what is removed may give the class away: see Rong et
    al.: A consistent and efficient evaluation strategy for attribution methods, ICML 2022.

    What is done stands in roar.sqlite and is not done again, and roar.csv shows it, a line per
    classifier; methods and shares may be added later. Maps stay in the folder `maps`, 4 S^2 bytes
    per photo.

    Args:
        explainer_path: A file that serves the methods; it also says how images are normalised.
        data: A folder with one folder per class or a CSV file; see `klieg.training.data.photos`.
        folder: For the files; it may hold what was done of the same test.
        classifier: "module:function", or a function, that returns an untrained torch module for
            the explainer's images [B, C, S, S], always the same one after the same seed of torch.
        methods: See `Explainer.explain`.
        shares: Ascending shares of the pixels in 0..1, without 0, which is always done.
        epochs: Passes through the photos.
        held_out: Share of the photos that accuracy is measured on, between 0 and 1.
        batch_size: Photos per step.
        optimiser: "adam", or "sgd" with a momentum of 0.9.
        learning_rate: Its rate.
        seed: Decides the split, the weights, the order of photos and random maps.
        accelerator: What computes, in the words of Lightning Fabric.

    Raises:
        OptionError: an option has an impossible value, the file does not serve a method, or
            `classifier` does not return what it should.
        ImageError: a photo cannot be read.
        DataError: the photos or labels cannot be used.
        DivergedError: a loss became NaN.
        CheckpointError: the folder is of another test.
        ExplainerFileError: the file is no explainer.
        BackendError: the engine failed.
    """
    _check(methods, shares, held_out)
    root, chosen = Path(folder), (*methods, RANDOM)
    with Explainer(explainer_path) as explainer:
        for method in methods:
            explainer.check_outputs(f"method {method!r}", find_method(method).outputs)
        retraining = Retraining(
            classifier,
            explainer,
            epochs=epochs,
            batch_size=batch_size,
            optimiser=optimiser,
            learning_rate=learning_rate,
            seed=seed,
            device=Fabric(accelerator=accelerator, devices=1).device,
        )
        photos = _photos(data, held_out, classes=explainer.classes, seed=seed)
        configuration = {
            "explainer": explainer.versions["explainer_sha256"],
            "photos": _digest(photos),
            "retraining": retraining.configuration,
        }
        check_configuration(
            root / CONFIGURATION, configuration, work="a test", error=CheckpointError
        )
        table = Tables(
            root / DATABASE, {"roar": COLUMNS}, exported=root / RESULTS, error=CheckpointError
        )
        found = {
            (method, share): accuracy for method, share, accuracy in table.rows("roar", COLUMNS)
        }
        wanted = [(UNMODIFIED, 0.0), *((method, share) for method in chosen for share in shares)]
        for method, share in wanted:
            if (method, share) in found:
                continue
            maps = None
            if method != UNMODIFIED:
                path = root / "maps" / f"{method}.npy"
                maps = maps_of(
                    explainer, (*photos.training, *photos.held_out), method, path=path, seed=seed
                )
            training, test = (
                ErasedPhotos(
                    explainer,
                    part,
                    maps=None if maps is None else maps[rows],
                    share=share,
                    seed=seed,
                )
                for part, rows in (
                    (photos.training, slice(len(photos.training))),
                    (photos.held_out, slice(len(photos.training), None)),
                )
            )
            found[method, share] = retraining.accuracy(training, test)
            table.add({"roar": [(method, share, found[method, share])]})
            _export(table, root)
        _export(table, root)  # whatever ended an earlier run between a row and the file
    accuracies = [
        [found[UNMODIFIED, 0.0], *(found[method, share] for share in shares)] for method in chosen
    ]
    return RoarResult(chosen, (0.0, *shares), np.array(accuracies))


def _photos(data: str | os.PathLike[str], held_out: float, *, classes: int, seed: int) -> Photos:
    path = Path(os.path.abspath(data))
    options = DataOptions(
        path=str(path),
        layout="csv" if path.suffix.lower() == ".csv" else "folders",
        held_out=held_out,
    )
    photos = find_photos(options, classes=classes, seed=seed)
    if not photos.held_out:
        raise DataError(
            f"held_out is {held_out:g} of {len(photos.training)} photos, which is none: accuracy "
            "is measured on at least one"
        )
    return photos


def _digest(photos: Photos) -> str:
    """Return a digest of paths and labels."""
    rows = [
        [(str(photo.path), photo.label) for photo in part]
        for part in (photos.training, photos.held_out)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _check(methods: Sequence[str], shares: Sequence[float], held_out: float) -> None:
    for method in methods:
        find_method(method)
    check_names(methods=methods)
    if not shares or list(shares) != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] <= 1:
        raise OptionError(
            f"shares are {list(shares)}, expected ascending numbers above 0 and up to 1"
        )
    if not 0 < held_out < 1:
        raise OptionError(f"held_out is {held_out:g}, expected a number between 0 and 1")


def _export(table: Tables, root: Path) -> None:
    """Write all accuracies to the CSV file."""
    rows = table.rows("roar", COLUMNS)
    write_table(root / RESULTS, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
