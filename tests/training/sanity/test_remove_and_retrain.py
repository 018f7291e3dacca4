"""ROAR on photos whose class is the colour of a patch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from helpers.csv_files import csv_rows
from helpers.toy_patches import CLASSES, SIDE, colour_net, linear_net, listed
from klieg import Explainer
from klieg.errors import CheckpointError, DataError, DivergedError, OptionError
from klieg.images.formats import read_image
from klieg.training.sanity.erasure import ErasedPhotos, top_pixels
from klieg.training.sanity.remove_and_retrain import RoarResult, roar
from klieg.training.sanity.retraining import Retraining

METHODS = ("gradcam", "saliency")
SHARES = (0.15, 0.3)
TRAINING: dict[str, Any] = {"epochs": 6, "batch_size": 16, "learning_rate": 0.01}


def toy_roar(explainer: Path, data: Path, folder: Path, **changes: Any) -> RoarResult:
    options: dict[str, Any] = {
        "classifier": colour_net,
        "methods": METHODS,
        "shares": SHARES,
        **TRAINING,
    }
    return roar(explainer, data, folder, **(options | changes))


@pytest.fixture(scope="module")
def whole(
    patch_explainer: Path, patches: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RoarResult]:
    """A test that nothing disturbed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    return folder, toy_roar(patch_explainer, patches, folder)


def test_maps_that_find_the_patch_cost_accuracy(whole: tuple[Path, RoarResult]) -> None:
    _, result = whole
    assert result.methods == (*METHODS, "random")
    assert result.shares == (0, *SHARES)
    gradcam, saliency, random = result.accuracies
    assert gradcam[0] == saliency[0] == random[0] > 0.95
    assert (random[1:] > 0.9).all()  # two thirds of the patch still shows its colour
    for found in (gradcam, saliency):
        assert (found <= random).all(), result.accuracies
        assert found[2] < random[2] - 0.3, result.accuracies  # guessing would be 0.67 lower
    # Coarse maps take the patch as a whole, gradients of single pixels leave parts of it.
    assert gradcam[1] < random[1] - 0.3, result.accuracies


def test_what_a_test_leaves(whole: tuple[Path, RoarResult]) -> None:
    folder, result = whole
    expected = [("none", 0.0)] + [(m, s) for m in (*METHODS, "random") for s in SHARES]
    assert [
        (row["method"], float(row["share"])) for row in csv_rows(folder / "roar.csv")
    ] == expected
    written = [float(row["accuracy"]) for row in csv_rows(folder / "roar.csv")]
    assert written == [result.accuracies[0, 0], *result.accuracies[:, 1:].ravel()]
    assert sorted(path.name for path in (folder / "maps").iterdir()) == [
        "gradcam.npy",
        "random.npy",
        "saliency.npy",
    ]


def test_every_photo_loses_the_pixels_of_its_own_map(
    whole: tuple[Path, RoarResult],
    patch_explainer: Path,
    patches: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The split is found again by hand, and each photo explained alone, for its label."""
    photos = listed(patches)
    held_out = set(np.random.default_rng([0, 2]).permutation(len(photos))[:24].tolist())
    parts = [
        [photo for i, photo in enumerate(photos) if (i in held_out) == wanted]
        for wanted in (False, True)
    ]
    given: list[tuple[ErasedPhotos, ErasedPhotos]] = []
    monkeypatch.setattr(Retraining, "accuracy", lambda _, *data: given.append(data) or 0.5)
    toy_roar(patch_explainer, patches, tmp_path, methods=["gradcam"], shares=[0.15])
    unmodified, gradcam, random = given
    maps = np.load(tmp_path / "maps" / "gradcam.npy")
    np.testing.assert_array_equal(maps, np.load(whole[0] / "maps" / "gradcam.npy"))
    with Explainer(patch_explainer) as explainer:
        for part, before, after, drawn, start in zip(
            parts, unmodified, gradcam, random, (0, 96), strict=True
        ):
            assert len(before) == len(after) == len(drawn) == len(part)
            for row in (0, 11, len(part) - 1):
                one = explainer.explain([part[row].path], method="gradcam", target=part[row].label)
                # A batch of another size may round differently.
                np.testing.assert_allclose(maps[start + row], one.maps[0], atol=1e-5)
                gone = top_pixels(maps[start + row], 0.15, seed=(0, 7, row))
                image, label = after[row]
                assert label == part[row].label
                assert (image.numpy()[:, gone] == 0).all()
                kept = read_image(part[row].path).transpose(2, 0, 1)[:, ~gone] / 255
                np.testing.assert_allclose(image.numpy()[:, ~gone] * 0.25 + 0.25, kept, atol=1e-6)
                assert (before[row][0] != 0).float().mean() > 0.9
                # 0.15 of 1024 pixels, whichever they are; noise may have the mean colour too.
                assert ((drawn[row][0] == 0).all(dim=0)).sum() >= 154


class StoppedError(Exception):
    pass


def test_an_interrupted_test_ends_equal(
    whole: tuple[Path, RoarResult],
    patch_explainer: Path,
    patches: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, result = whole
    accuracy, done = Retraining.accuracy, []

    def counted(self: Retraining, training: ErasedPhotos, test: ErasedPhotos) -> float:
        if len(done) == 2:
            raise StoppedError
        done.append(accuracy(self, training, test))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Retraining, "accuracy", counted)
        with pytest.raises(StoppedError):
            toy_roar(patch_explainer, patches, tmp_path)
    assert len(csv_rows(tmp_path / "roar.csv")) == 2
    # What is left is made of what is there: only the classifiers that are missing are trained.
    calls = []
    monkeypatch.setattr(Retraining, "accuracy", lambda *given: calls.append(1) or accuracy(*given))
    again = toy_roar(patch_explainer, patches, tmp_path)
    assert len(calls) == 5
    np.testing.assert_array_equal(again.accuracies, result.accuracies)
    assert (tmp_path / "roar.csv").read_bytes() == (folder / "roar.csv").read_bytes()


def test_what_is_done_is_not_done_again_and_more_may_be_added(
    whole: tuple[Path, RoarResult],
    patch_explainer: Path,
    patches: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, result = whole
    calls = []
    monkeypatch.setattr(Retraining, "accuracy", lambda *_: calls.append(1) or 0.5)
    toy_roar(patch_explainer, patches, tmp_path, methods=["gradcam"], shares=[0.3])
    assert len(calls) == 3
    made = (tmp_path / "maps" / "gradcam.npy").stat().st_mtime_ns
    more = toy_roar(patch_explainer, patches, tmp_path, methods=["casm", "gradcam"])
    assert len(calls) == 7
    assert more.accuracies.shape == (3, 3)
    assert len(csv_rows(tmp_path / "roar.csv")) == 7
    assert (tmp_path / "maps" / "gradcam.npy").stat().st_mtime_ns == made
    (tmp_path / "roar.csv").unlink()  # as if the run had ended between its last row and the file
    toy_roar(patch_explainer, patches, tmp_path, methods=["casm", "gradcam"])
    assert len(calls) == 7
    assert len(csv_rows(tmp_path / "roar.csv")) == 7
    assert result.accuracies.shape == (3, 3)


def test_another_test_is_refused(
    whole: tuple[Path, RoarResult], patch_explainer: Path, patches: Path
) -> None:
    folder, _ = whole
    for changes in ({"epochs": 9}, {"seed": 1}, {"classifier": linear_net}, {"held_out": 0.3}):
        with pytest.raises(CheckpointError, match=r"other (retraining|photos)"):
            toy_roar(patch_explainer, patches, folder, **changes)
    toy_roar(patch_explainer, patches, folder)  # still the same


def test_the_folder_of_an_older_klieg_is_refused(
    whole: tuple[Path, RoarResult], patch_explainer: Path, patches: Path, tmp_path: Path
) -> None:
    for name in ("roar.csv", "roar.json"):
        shutil.copy(whole[0] / name, tmp_path)
    with pytest.raises(CheckpointError, match=r"older klieg, roar\.csv without roar\.sqlite"):
        toy_roar(patch_explainer, patches, tmp_path)


SAME = linear_net()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": []}, "at least one"),
        ({"methods": ["gradcam", "gradcam"]}, "each once"),
        ({"methods": ["random"]}, "unknown method 'random'"),
        ({"methods": ["guided_backprop"]}, "guided_backprop"),
        ({"shares": []}, "shares are"),
        ({"shares": [0.5, 0.3]}, "ascending"),
        ({"shares": [0.0, 0.3]}, "above 0"),
        ({"shares": [0.5, 1.1]}, "up to 1"),
        ({"shares": [float("nan")]}, "shares are"),
        ({"held_out": 1}, "held_out is 1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"optimiser": "lbfgs"}, "expected adam or sgd"),
        ({"classifier": SAME}, "a function that returns a fresh one"),
        ({"classifier": lambda: SAME}, "starts with other weights"),
        ({"classifier": lambda: 3}, "returned a int"),
        ({"classifier": "efficientnet-lite0"}, "expected 'module:function'"),
        (
            {"classifier": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))},
            r"shape \[2, 4\] for 2 images, expected \[2, 3\]",
        ),
    ],
)
def test_bad_options(
    patch_explainer: Path, patches: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        toy_roar(patch_explainer, patches, tmp_path, **({"epochs": 1} | changes))


def test_bad_data(patch_explainer: Path, patches: Path, tmp_path: Path) -> None:
    for path, changes, message in (
        (tmp_path / "nowhere", {}, "does not exist"),
        (patches, {"held_out": 1e-6}, "which is none"),
        (tmp_path / "photos.csv", {}, "has the label 3"),
    ):
        (tmp_path / "photos.csv").write_text(f"file,class_index\n{patches / '0' / '0.png'},3\n")
        with pytest.raises(DataError, match=message):
            toy_roar(patch_explainer, path, tmp_path / "run", **changes)


def test_a_loss_that_diverges(patch_explainer: Path, patches: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="lower learning_rate"):
        toy_roar(
            patch_explainer,
            patches,
            tmp_path,
            classifier=linear_net,
            optimiser="sgd",
            learning_rate=1e38,
        )


def test_a_classifier_by_name_and_a_table(
    patch_explainer: Path, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "module:function" and a CSV file stand for the function and the folder."""
    (tmp_path / "toy_builder.py").write_text(
        "from torch import nn\n"
        f"def net(): return nn.Sequential(nn.Flatten(), nn.Linear({3 * SIDE * SIDE}, {CLASSES}))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    table = tmp_path / "photos.csv"
    table.write_text(
        "file,class_index\n" + "".join(f"{one.path},{one.label}\n" for one in listed(patches))
    )
    short: dict[str, Any] = {"epochs": 1, "methods": ["gradcam"], "shares": [0.5]}
    by_name: Callable[[], RoarResult] = lambda: toy_roar(  # noqa: E731
        patch_explainer, table, tmp_path / "run", classifier="toy_builder:net", **short
    )
    first = by_name()
    folder = toy_roar(patch_explainer, patches, tmp_path / "run", classifier=linear_net, **short)
    np.testing.assert_array_equal(first.accuracies, folder.accuracies)  # the same test: nothing new
