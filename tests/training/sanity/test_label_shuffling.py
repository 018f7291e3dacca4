"""The data randomisation test, against its steps by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from helpers.csv_files import csv_rows
from helpers.small_net import MEAN, STD, lively_net
from helpers.toy_training import AGNOSTIC, photo, toy_options, toy_run, write_photo
from klieg.errors import CheckpointError, DataError, InputError, OptionError
from klieg.training import TrainingOptions, load_masker, read_options
from klieg.training.data.batches import centre_crop
from klieg.training.data.photos import Photo, find_photos
from klieg.training.model.taps import TappedClassifier
from klieg.training.sanity import label_shuffling as module
from klieg.training.sanity.label_shuffling import (
    DataRandomisation,
    data_randomisation,
    shuffled_labels,
)
from klieg.training.settings.configuration import table_of

SIMILARITIES = ("spearman", "ssim")  # HOG needs 48 pixels


def drt(options: TrainingOptions, folder: Path, photos: list[Path], **changes: Any) -> Any:
    given: dict[str, Any] = {"similarities": SIMILARITIES, "classifier": lively_net(), "seed": 3}
    return data_randomisation(
        options, folder, photos=photos, accelerator="cpu", progress=False, **(given | changes)
    )


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos that nothing was trained on, more than a batch, of two sizes."""
    root = tmp_path_factory.mktemp("others")
    return [
        write_photo(root / f"{n}.png", photo(n % 5, 100 + n, ((40, 56), (64, 48))[n % 2]))
        for n in range(19)
    ]


@pytest.fixture(scope="module")
def done(
    squares: Path, others: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingOptions, Path, DataRandomisation]:
    torch.set_num_threads(1)
    options, folder = toy_options(squares), tmp_path_factory.mktemp("test")
    return options, folder, drt(options, folder, others)


def listed(options: TrainingOptions) -> tuple[tuple[Photo, ...], tuple[Photo, ...]]:
    found = find_photos(options.data, classes=5, seed=options.seed)
    return found.training, found.held_out


def test_labels_are_permuted_and_nothing_else(squares: Path, tmp_path: Path) -> None:
    options = toy_options(squares)
    shuffled = shuffled_labels(options, tmp_path / "labels.csv", classes=5, seed=3)
    labels, permuted = [], []
    for before, after in zip(listed(options), listed(shuffled), strict=True):
        assert [one.path for one in before] == [one.path for one in after]  # in the same order
        labels += [one.label for one in before]
        permuted += [one.label for one in after]
    assert Counter(labels) == Counter(permuted)
    assert labels != permuted
    before, after = table_of(options), table_of(shuffled)
    assert {key for key in before if before[key] != after[key]} == {"data"}
    assert {key for key in before["data"] if before["data"][key] != after["data"][key]} == {
        "path",
        "layout",
    }


def test_a_seed_stands_for_a_permutation(squares: Path, tmp_path: Path) -> None:
    options = toy_options(squares)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        shuffled_labels(options, tmp_path / f"{name}.csv", classes=5, seed=seed)
    first, again, other = ((tmp_path / f"{name}.csv").read_bytes() for name in "abc")
    assert first == again != other


def test_what_was_drawn_is_not_drawn_again(squares: Path, tmp_path: Path) -> None:
    few = {"path": str(squares), "image_size": 32, "held_out": 0.25, "classes": 4, "per_class": 3}
    options = toy_options(squares, data=few, seed=5)
    shuffled = shuffled_labels(options, tmp_path / "labels.csv", classes=5, seed=0)
    paths = [[[one.path for one in part] for part in listed(o)] for o in (options, shuffled)]
    assert paths[0] == paths[1]
    assert [len(part) for part in paths[0]] == [9, 3]


def test_equals_the_steps_by_hand(
    done: tuple[TrainingOptions, Path, DataRandomisation], others: list[Path], tmp_path: Path
) -> None:
    options, folder, result = done
    shuffled = read_options(folder / "shuffled" / "config.toml")
    assert shuffled == shuffled_labels(options, folder / "labels-3.csv", classes=5, seed=3)
    maskers = [toy_run(o, tmp_path / str(n)) for n, o in enumerate((options, shuffled))]
    for name, number in (("labels", 0), ("shuffled", 1)):
        written = (folder / name / "masker.safetensors").read_bytes()
        assert written == (tmp_path / str(number) / "masker.safetensors").read_bytes()
    for number, path in enumerate(others):
        image = (centre_crop(Photo(path, 0), 32) / 255).permute(1, 2, 0)
        image = ((image - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]
        masks = []
        for trained in maskers:
            reader = TappedClassifier(lively_net(), trained.masker.taps).eval()
            with torch.no_grad():
                masks.append(trained.masker(reader(image)[1], (32, 32))[0, 0].numpy())
        # One photo at a time rounds otherwise than a batch: neighbours in rank may change places.
        expected = stats.spearmanr(masks[0].ravel(), masks[1].ravel()).statistic
        assert result.per_image[0, number] == pytest.approx(expected, abs=1e-3)
    assert np.ptp(result.per_image[0]) > 0.01  # so that an order of photos was tested
    assert (result.per_image < 0.9999).all()  # and that labels matter


def test_the_result(
    done: tuple[TrainingOptions, Path, DataRandomisation], others: list[Path]
) -> None:
    options, folder, result = done
    assert result.metrics == SIMILARITIES
    assert result.photos == tuple(map(str, others))
    np.testing.assert_allclose(result.similarities, result.per_image.mean(axis=1), rtol=1e-12)
    assert result.undefined.tolist() == [0, 0]
    labels = {one.path: one.label for one in listed(options)[0]}
    shuffled = listed(read_options(folder / "shuffled" / "config.toml"))[0]
    assert result.moved == np.mean([labels[one.path] != one.label for one in shuffled])
    rows = csv_rows(folder / "data_randomisation.csv")
    assert [row["photo"] for row in rows] == list(result.photos)
    for name, values in zip(SIMILARITIES, result.per_image, strict=True):
        assert [float(row[name]) for row in rows] == values.tolist()


def test_an_interrupted_test_goes_on(
    done: tuple[TrainingOptions, Path, DataRandomisation],
    others: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, folder, result = done
    train = module.train

    def interrupted(run: TrainingOptions, where: Path, **rest: Any) -> Any:
        if where.name == "shuffled":
            raise KeyboardInterrupt
        return train(run, where, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            drt(options, tmp_path, others)
    assert not (tmp_path / "data_randomisation.csv").exists()
    again = drt(options, tmp_path, others)
    np.testing.assert_array_equal(again.per_image, result.per_image)
    name = "data_randomisation.csv"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    drt(options, tmp_path, others)  # finished: the same again
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(CheckpointError):  # not half of one permutation and half of another
        drt(options, tmp_path, others, seed=4)


def test_a_masker_with_a_classifier_of_its_own(
    squares: Path, others: list[Path], tmp_path: Path
) -> None:
    options = toy_options(squares, critics=AGNOSTIC)
    net = lively_net()
    working_in_place = [getattr(part, "inplace", None) for part in net.modules()]
    result = drt(options, tmp_path, others[:2], classifier=net)
    assert load_masker(tmp_path / "shuffled" / "masker.safetensors").classifier is not None
    assert result.per_image.shape == (2, 2)
    # The caller's classifier stays as it was.
    assert [getattr(part, "inplace", None) for part in net.modules()] == working_in_place


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"similarities": ["spearman", "hog"]}, InputError, "at least 48"),
        ({"similarities": ["pearson"]}, OptionError, "similarities are"),
        ({"similarities": []}, OptionError, "similarities are"),
        ({"seed": -1}, OptionError, "seed is -1"),
        ({"photos": []}, InputError, "got no photos"),
        ({"photos": [Path("nowhere.png")]}, DataError, "no file nowhere.png"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(
    squares: Path,
    others: list[Path],
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    given = {"photos": others} | changes
    with pytest.raises(error, match=message):
        drt(toy_options(squares), tmp_path, **given)
    assert not (tmp_path / "labels").exists()


def test_photos_that_were_trained_on(squares: Path, tmp_path: Path) -> None:
    options = toy_options(squares)
    training, held_out = listed(options)
    paths = [held_out[0].path, training[0].path.parent / "." / training[0].path.name]
    with pytest.raises(DataError, match="one of the photos to train on"):
        drt(options, tmp_path, paths)


def test_labels_that_cannot_be_shuffled(squares: Path, tmp_path: Path) -> None:
    for data, error, message in (
        ({"labels": "predicted"}, OptionError, "expected 'given'"),
        ({"classes": 1}, DataError, "no label of 4 photos changes"),
    ):
        options = toy_options(squares, data={"path": str(squares), **data})
        with pytest.raises(error, match=message):
            shuffled_labels(options, tmp_path / "labels.csv", classes=5, seed=0)
        assert not (tmp_path / "labels.csv").exists()
