"""The events of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from helpers.small_net import lively_net
from helpers.toy_training import toy_options
from klieg.training import train
from klieg.training.setup import Setup, set_up, source_of
from klieg.training.trainer import Event, steps


def made(squares: Path) -> Setup:
    options = toy_options(squares)
    return set_up(options, source_of(options, lively_net()), Fabric(accelerator="cpu", devices=1))


def test_events_say_what_is_due(squares: Path) -> None:
    events = list(steps(made(squares), done=0))
    assert [event.step for event in events] == list(range(1, 11))
    assert [(event.step, event.epoch) for event in events if event.epoch] == [(5, 1), (10, 2)]
    assert [event.step for event in events if event.checkpoint] == [3, 6, 9, 10]
    assert all(event.terms.keys() == events[0].terms.keys() for event in events)


def test_steps_that_are_done_are_not_taken_again(squares: Path) -> None:
    setup = made(squares)
    whole: list[Event] = []
    for event in steps(setup, done=0):
        whole.append(event)
        if event.step == 6:
            break
    whole += steps(setup, done=6)
    again = made(squares)
    assert whole == list(steps(again, done=0))
    for one, other in zip(setup.masker.parameters(), again.masker.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_bar_counts_the_steps_that_are_left(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> tuple[str, str]:
        train(toy_options(squares), tmp_path, classifier=lively_net(), accelerator="cpu")
        written = capsys.readouterr()
        return written.out, written.err

    assert shown() == ("", "training\n")
    assert shown() == ("", "")  # nothing is left
    (tmp_path / "checkpoints" / "step-00000010.safetensors").unlink()
    assert shown() == ("", "training from step 10\n")
