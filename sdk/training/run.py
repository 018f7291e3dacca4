"""A whole training run in one folder, resumable at any moment.

The folder holds config.toml, which reproduces the run, log.csv with the terms of every step,
scores.csv with scores on held-out photos, pictures/, checkpoints/, pool/ and in the end
masker.safetensors.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Final

import click
import torch
from lightning_fabric import Fabric
from torch import nn

from klieg.errors import CheckpointError
from klieg.training.checkpoint import Checkpoints
from klieg.training.data.batches import readable
from klieg.training.log import Log
from klieg.training.model.trained_masker import TrainedMasker
from klieg.training.settings.configuration import table_of, with_absolute_paths, write_options
from klieg.training.settings.options import TrainingOptions
from klieg.training.setup import Setup, set_up, source_of
from klieg.training.trainer import Event, steps
from klieg.training.validation import EXAMPLES, save_examples, validate

CONFIG: Final = "config.toml"
LOG: Final = "log.csv"
SCORES: Final = "scores.csv"
MASKER: Final = "masker.safetensors"


def train(
    options: TrainingOptions,
    folder: str | os.PathLike[str],
    *,
    classifier: nn.Module | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    progress: bool = True,
) -> TrainedMasker:
    """Train a masker; a run that was interrupted in this folder goes on where it was.

    Args:
        options: Everything that decides the weights.
        folder: For the run's files; it may hold an interrupted run of the same options.
        classifier: A torch module that maps normalised images to logits, in place of the source
            that `options.classifier` names; `options.mean` and `options.std` are then needed.
        accelerator: What computes, in the words of Lightning Fabric: "auto", "cpu", "cuda".
        devices: Number of GPUs or processes; the batch is shared among them.
        progress: Whether to show a progress bar, on the standard error stream.

    Returns:
        The masker, which also stands in the folder as masker.safetensors.

    Raises:
        OptionError: an option has an impossible value.
        DataError: the photos or labels cannot be used.
        DivergedError: a term of the loss became NaN; the last good checkpoint stays.
        CheckpointError: the folder is of another run, or the disk is full.
    """
    options = with_absolute_paths(options, Path())
    source = source_of(options, classifier)
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=options.optimiser.precision)
    fabric.launch()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        return _finished(set_up(options, source, fabric), Path(folder), progress=progress)
    except OSError as error:  # a full disk shows itself wherever something is written
        raise CheckpointError(
            f"the run in {folder} cannot go on: {error}; checkpoints that it has written are intact"
        ) from error
    finally:
        torch.set_num_threads(threads)


def _finished(setup: Setup, folder: Path, *, progress: bool) -> TrainedMasker:
    """Take the steps that are left, keep the folder up to date, and return the masker."""
    checkpoints = Checkpoints(
        folder, config=table_of(setup.options), classifier_sha256=setup.classifier_sha256
    )
    done = checkpoints.restore(setup.state)
    events = steps(setup, done=done)
    if not setup.fabric.is_global_zero:
        for _ in events:
            pass
        return setup.trained()
    write_options(setup.options, folder / CONFIG)
    log, scores = Log(folder / LOG, done=done), Log(folder / SCORES, done=done)
    if progress and done < setup.schedule.steps:
        events = _shown(events, done=done, steps=setup.schedule.steps)
    for event in events:
        log.add(event.step, event.terms)
        if event.epoch is not None:
            _look(setup, event, folder, scores)
        if event.checkpoint:
            checkpoints.save(event.step, setup.state)
    trained = setup.trained()
    trained.save(folder / MASKER)
    return trained


def _shown(events: Iterator[Event], *, done: int, steps: int) -> Iterator[Event]:
    """Pass events on while a bar shows the steps that are left."""

    def terms(event: Event | None) -> str | None:
        if event is None:
            return None
        return " ".join(f"{name}={value:.3g}" for name, value in event.terms.items())

    label = f"training from step {done + 1}" if done else "training"
    with click.progressbar(
        length=steps - done, label=label, show_pos=True, item_show_func=terms, file=sys.stderr
    ) as bar:
        for event in events:
            bar.update(1, event)
            yield event


def _look(setup: Setup, event: Event, folder: Path, scores: Log) -> None:
    """Write example masks, and scores if photos are held out."""
    options = setup.options.data
    held_out = list(readable(setup.photos.held_out, options))
    if held_out:
        found = validate(
            held_out,
            size=setup.input_size,
            normalise=setup.normalised,
            label=setup.labels,
            original=setup.critics.original,
            reader=setup.reader,
            masker=setup.kept_masker,
        )
        scores.add(event.step, asdict(found))
    save_examples(
        folder / "pictures" / f"epoch-{event.epoch:04}.png",
        list(islice(held_out or readable(setup.photos.training, options), EXAMPLES)),
        size=options.image_size,
        normalise=setup.normalised,
        classifier=setup.reader,
        masker=setup.kept_masker,
    )
