from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import klieg.training.step as step_module
from helpers.csv_files import csv_numbers
from helpers.small_net import lively_net
from helpers.toy_training import (
    AGNOSTIC,
    RESULTS,
    assert_same_results,
    killed_run,
    toy_options,
    toy_run,
)
from klieg.errors import DivergedError, OptionError
from klieg.export.classifiers.weights import weights_sha256
from klieg.training import TrainingOptions, load_masker, read_options
from klieg.training.optimisers import Optimisers
from klieg.training.settings.configuration import table_of


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that start at once, as all of them come from one that imported torch before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["klieg.training.run"])
    return context


def killed(processes: Any, options: TrainingOptions, folder: Path, moment: str, n: int) -> None:
    process = processes.Process(target=killed_run, args=(table_of(options), folder, moment, n))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module", params=["fixed", "agnostic"])
def whole(
    request: pytest.FixtureRequest, squares: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainingOptions, Path]:
    """Options, and a run of them that nothing disturbed: ten steps, a checkpoint every third."""
    torch.set_num_threads(1)
    options = toy_options(squares)
    if request.param == "agnostic":
        options = toy_options(
            squares, critics=AGNOSTIC, optimiser={"averaging": 0.8}, masker={"gumbel": "hard"}
        )
    folder = tmp_path_factory.mktemp("whole")
    toy_run(options, folder)
    return options, folder


MOMENTS = [
    [("logged", 2)],  # before the first checkpoint
    [("saved", 6), ("logged", 8)],
    [("writing", 2), ("logged", 7), ("saved", 9), ("saved", 10)],
    [("logged", 3), ("logged", 10), ("writing", 1)],
]


@pytest.mark.parametrize("moments", MOMENTS)
def test_a_killed_run_ends_like_any_other(
    processes: Any,
    whole: tuple[TrainingOptions, Path],
    tmp_path: Path,
    moments: list[tuple[str, int]],
) -> None:
    options, undisturbed = whole
    for moment, number in moments:
        killed(processes, options, tmp_path / "run", moment, number)
        assert not (tmp_path / "run" / "masker.safetensors").exists()
    toy_run(options, tmp_path / "run")
    assert_same_results(tmp_path / "run", undisturbed)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_finished_run_stays_as_it_is(whole: tuple[TrainingOptions, Path]) -> None:
    options, folder = whole
    before = {name: (folder / name).read_bytes() for name in RESULTS}
    toy_run(options, folder)
    assert {name: (folder / name).read_bytes() for name in RESULTS} == before


def test_config_in_the_folder_makes_the_same_masker(
    whole: tuple[TrainingOptions, Path], tmp_path: Path
) -> None:
    options, folder = whole
    again = read_options(folder / "config.toml")
    assert again == options
    toy_run(again, tmp_path)
    assert_same_results(tmp_path, folder)


def test_what_a_run_leaves(whole: tuple[TrainingOptions, Path]) -> None:
    options, folder = whole
    assert [row["step"] for row in csv_numbers(folder / "log.csv")] == list(range(1, 11))
    assert set(csv_numbers(folder / "log.csv")[0]) == {
        "step",
        "out_entropy",
        "in_classification",
        "size_out",
        "size_in",
        "variation",
        "mask",
    }
    assert [row["step"] for row in csv_numbers(folder / "scores.csv")] == [5, 10]
    assert len(list((folder / "pictures").iterdir())) == 2
    trained = load_masker(folder / "masker.safetensors")
    assert (trained.classifier is not None) == (options.critics.regime == "agnostic")
    assert not list(folder.rglob(".*"))


def poisoned(
    patch: pytest.MonkeyPatch, name: str, *, call: int, change: Callable[..., Any]
) -> None:
    """Let the `call`-th answer of a function that `compute_step` calls be changed."""
    honest, calls = getattr(step_module, name), itertools.count(1)

    def function(*args: Any) -> Any:
        answer = honest(*args)
        return change(answer) if next(calls) == call else answer

    patch.setattr(step_module, name, function)


def infinite_gradient(loss: Tensor) -> Tensor:
    return loss * float("inf")


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        ("terms", lambda t: {**t, "size_in": t["size_in"] * float("nan")}, "size_in became NaN"),
        ("terms", lambda t: {**t, "variation": t["variation"] / 0}, "variation became NaN"),
        # Nothing that is logged: only the gradients of the learner.
        ("learning_loss", infinite_gradient, "a gradient became NaN"),
    ],
)
def test_nan_leaves_the_checkpoint_before(
    squares: Path, tmp_path: Path, function: str, change: Callable[..., Any], message: str
) -> None:
    # Without the past the learner learns from clean images, then from both kinds of masked ones.
    options = toy_options(squares, critics={"regime": "agnostic"}, checkpoint_every=1)
    call = 5 if function == "terms" else 3 * 4 + 1
    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, function, call=call, change=change)
        with pytest.raises(DivergedError, match=f"{message}.*at step 5; .*after step 4 is intact"):
            toy_run(options, tmp_path / "run")
    steps = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert steps == ["step-00000003.safetensors", "step-00000004.safetensors"]
    toy_run(options, tmp_path / "run")
    toy_run(options, tmp_path / "undisturbed")
    assert_same_results(tmp_path / "run", tmp_path / "undisturbed")


def test_nan_in_the_first_step(squares: Path, tmp_path: Path) -> None:
    broken = lively_net()
    with torch.no_grad():
        broken.head.bias[0] = float("nan")
    with pytest.raises(DivergedError, match="at step 1; no checkpoint yet"):
        toy_run(toy_options(squares), tmp_path, classifier=broken)


class Shared(nn.Module):
    """Calls one activation twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.act, self.head = nn.ReLU(), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.second(self.act(self.first(images))))
        return self.head(x.mean(dim=(2, 3)))


def test_taps_may_be_nodes(squares: Path, tmp_path: Path) -> None:
    options = toy_options(squares, critics=AGNOSTIC, masker={"taps": ["first", "act_1"]})
    trained = toy_run(options, tmp_path, classifier=Shared())
    assert (trained.masker.taps, trained.masker.widths) == (("first", "act"), (6, 8))


def test_the_number_of_threads_is_restored(squares: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    toy_run(toy_options(squares, threads=1), tmp_path)
    assert torch.get_num_threads() == 2


def test_learning_rates_follow_the_step(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Optimisers, "set_rates", lambda _self, step: seen.append(step))
    toy_run(toy_options(squares), tmp_path)
    assert seen == list(range(10))


@pytest.mark.parametrize("critics", [{"regime": "fixed"}, AGNOSTIC])
def test_the_given_classifier_never_changes(
    squares: Path, tmp_path: Path, critics: dict[str, Any]
) -> None:
    net = lively_net()
    digest = weights_sha256(net)
    toy_run(toy_options(squares, critics=critics), tmp_path, classifier=net)
    assert weights_sha256(net) == digest
    assert not net.training


def test_options_that_do_not_fit(squares: Path, tmp_path: Path) -> None:
    options = toy_options(squares)
    table = {name: value for name, value in table_of(options).items() if name != "mean"}
    with pytest.raises(OptionError, match="mean and std are needed"):
        toy_run(TrainingOptions(**table), tmp_path)
    with pytest.raises(OptionError, match="infill is 'grey'"):
        toy_run(toy_options(squares, infill="grey"), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
