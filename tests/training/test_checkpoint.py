from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import klieg.training.model.tensors as tensor_files
from helpers.small_net import lively_net
from helpers.toy_training import AGNOSTIC, assert_same_results, toy_options, toy_run
from klieg.errors import CheckpointError
from klieg.export.classifiers.weights import weights_sha256
from klieg.training import TrainedMasker, TrainingOptions, load_masker
from klieg.training.checkpoint import Checkpoints, RunState
from klieg.training.model.critics import Critics
from klieg.training.model.masker import Masker
from klieg.training.model.tensors import read_tensors, write_tensors
from klieg.training.settings.options import CriticOptions, MaskerOptions

CRITICS = {**AGNOSTIC, "snapshot_every": 5}
"""Members after 1, 5 and 10 steps: only the last checkpoint has the last one."""


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def options(squares: Path) -> TrainingOptions:
    return toy_options(squares, critics=CRITICS, optimiser={"averaging": 0.9})


@pytest.fixture(scope="module")
def finished(options: TrainingOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed: checkpoints after 9 and 10 steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    toy_run(options, folder)
    return folder


def test_two_checkpoints_and_their_pool_are_kept(finished: Path) -> None:
    names = [path.name for path in sorted((finished / "checkpoints").iterdir())]
    assert names == ["step-00000009.safetensors", "step-00000010.safetensors"]
    needed = set()
    for name in names:
        file = read_tensors(finished / "checkpoints" / name, kind="checkpoint")
        needed |= {f"step-{number:08}.safetensors" for number in file.description["pool"]}
    assert needed == {path.name for path in (finished / "pool").iterdir()}
    assert len(needed) >= 2


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "pool"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    options: TrainingOptions, finished: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    last = folder / "checkpoints" / "step-00000010.safetensors"
    if damage == "pool":
        newest = read_tensors(last, kind="checkpoint").description["pool"]
        before = read_tensors(last.with_name("step-00000009.safetensors"), kind="checkpoint")
        (number, *_) = sorted(set(newest) - set(before.description["pool"]))
        last = folder / "pool" / f"step-{number:08}.safetensors"
    whole = last.read_bytes()
    last.write_bytes({"cut": whole[:-20], "empty": b""}.get(damage, whole[:50]))
    (folder / "masker.safetensors").unlink()
    toy_run(options, folder)
    assert_same_results(folder, finished)
    # The files that were damaged are whole again, as far as they are needed.
    assert last.read_bytes() == whole


def test_nothing_readable_is_an_error(
    options: TrainingOptions, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"cannot read .*step-00000010"):
        toy_run(options, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"objective": {"size_out": 2.5}}, {"optimiser": {"learning_rate": 2e-3}}],
)
def test_other_options_in_the_same_folder(
    squares: Path, finished: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    averaged = {"averaging": 0.9, **changes.pop("optimiser", {})}
    other = toy_options(squares, critics=CRITICS, optimiser=averaged, **changes)
    with pytest.raises(CheckpointError, match="other options: choose another folder"):
        toy_run(other, tmp_path / "run")
    assert snapshot(tmp_path / "run") == before


def test_another_classifier_in_the_same_folder(
    options: TrainingOptions, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    other = lively_net()
    with torch.no_grad():
        other.features[0].bias.add_(1e-3)
    with pytest.raises(CheckpointError, match="another classifier"):
        toy_run(options, tmp_path / "run", classifier=other)


def state_of(critics: Critics) -> RunState:
    torch.manual_seed(0)
    masker = Masker(MaskerOptions(taps=("features.3", "features")), (8, 16))
    return RunState(masker, None, critics, {})


def agnostic() -> Critics:
    options = CriticOptions(regime="agnostic", historic=0.5)
    return Critics(lively_net(), options, ("features.3", "features"))


def test_snapshots_of_a_run_without_checkpoint_are_not_trusted(tmp_path: Path) -> None:
    """A run killed between its first snapshot and its first checkpoint may have been another."""
    critics = agnostic()
    critics.remember(1, 0, np.random.default_rng(0))
    other = {name: torch.zeros_like(t) for name, t in critics.pool.members[1].items()}
    path = tmp_path / "pool" / "step-00000001.safetensors"
    write_tensors(path, other, kind="snapshot", description={})
    (tmp_path / "pool" / ".step-00000001-abc.safetensors").write_bytes(b"half a file")
    kept = Checkpoints(tmp_path, config={}, classifier_sha256="x")
    assert kept.restore(state_of(critics)) == 0
    kept.save(3, state_of(critics))
    again = agnostic()
    reader = Checkpoints(tmp_path, config={}, classifier_sha256="x")
    assert reader.restore(state_of(again)) == 3
    for name, tensor in critics.pool.members[1].items():
        assert torch.equal(again.pool.members[1][name], tensor)
    assert [p.name for p in (tmp_path / "pool").iterdir()] == [path.name]


def test_members_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    critics, written = agnostic(), []
    write = tensor_files.save_file
    monkeypatch.setattr(
        tensor_files, "save_file", lambda *a, **k: (written.append(a[1]), write(*a, **k))
    )
    kept = Checkpoints(tmp_path, config={}, classifier_sha256="x")
    for step in (1, 2, 3):
        critics.remember(step, 0, np.random.default_rng(0))
        kept.save(step, state_of(critics))
    assert len(written) == 4  # three checkpoints, one member


def full_disk(monkeypatch: pytest.MonkeyPatch, *, call: int) -> None:
    """Let the disk be full in the middle of writing the `call`-th file of tensors."""
    write, calls = tensor_files.save_file, []

    def failing(tensors: Any, path: str, **rest: Any) -> None:
        calls.append(path)
        write(tensors, path, **rest)
        if len(calls) == call:
            os.truncate(path, 40)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(tensor_files, "save_file", failing)


def test_a_full_disk_leaves_the_checkpoint_before(squares: Path, tmp_path: Path) -> None:
    fixed = toy_options(squares)
    toy_run(fixed, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, call=2)
        with pytest.raises(CheckpointError, match=r"cannot write .*step-00000006.*No space"):
            toy_run(fixed, tmp_path / "full")
    left = [path.name for path in (tmp_path / "full").rglob("*.safetensors")]
    assert left == ["step-00000003.safetensors"]
    assert not list((tmp_path / "full").rglob(".*"))
    toy_run(fixed, tmp_path / "full")
    assert_same_results(tmp_path / "full", tmp_path / "whole")


class Bomb:
    """Says whether it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "garbage", "empty", "folder", "missing"])
def test_what_is_no_masker(tmp_path: Path, kind: str) -> None:
    path, fuse = tmp_path / "masker.safetensors", tmp_path / "unpickled"
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Bomb(fuse)))
        case "torch":
            torch.save({"masker": Bomb(fuse)}, path)
        case "garbage":
            path.write_bytes(np.random.default_rng(0).bytes(5000))
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read .*masker\.safetensors"):
        load_masker(path)
    assert not fuse.exists()
    if kind == "pickle":
        pickle.loads(path.read_bytes())
        assert fuse.exists()  # so the trap works


def test_other_files_of_tensors_are_no_masker(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds 'checkpoint', expected 'masker'"):
        load_masker(finished / "checkpoints" / "step-00000010.safetensors")
    good = read_tensors(finished / "masker.safetensors", kind="masker")
    about = {name: value for name, value in good.description.items() if name != "kind"}
    future = {**about, "options": {**about["options"], "hue": 3}}
    lost = {name: value for name, value in about.items() if name != "taps"}
    wider = {**about, "widths": [99, 99]}
    for description in (future, lost, wider):
        path = tmp_path / "masker.safetensors"
        write_tensors(path, good.tensors, kind="masker", description=description)
        with pytest.raises(CheckpointError, match="damaged masker"):
            load_masker(path)


def test_a_masker_is_read_as_it_was_written(finished: Path, tmp_path: Path) -> None:
    trained = load_masker(finished / "masker.safetensors")
    trained.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        finished / "masker.safetensors"
    ).read_bytes()
    assert not trained.masker.training
    assert trained.masker.taps == ("features.3", "features")


def test_the_classifier_that_is_deployed(finished: Path, squares: Path) -> None:
    trained = load_masker(finished / "masker.safetensors")
    original = lively_net()
    digest = weights_sha256(original)
    deployed = trained.deployed(original)
    assert weights_sha256(deployed) != digest
    assert weights_sha256(original) == digest  # the caller's module is left alone
    frozen = TrainedMasker(trained.masker, trained.options, trained.classifier_sha256)
    assert frozen.deployed(original) is original
    with pytest.raises(CheckpointError, match="got one with"):
        trained.deployed(deployed)
