"""Checkpoints: the state of a run on disk, from which a killed run goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from klieg.errors import CheckpointError
from klieg.training.model.critics import Critics
from klieg.training.model.masker import Masker
from klieg.training.model.tensors import TensorFile, read_tensors, write_tensors

KEPT: Final = 2
"""Checkpoints that stay: the last one, and the one before in case the last one is damaged."""
CHECKPOINT, SNAPSHOT = "checkpoint", "snapshot"


@dataclass(frozen=True)
class RunState:
    """Everything that changes while a run goes on."""

    masker: Masker
    averaged: nn.Module | None
    critics: Critics
    optimisers: Mapping[str, torch.optim.Optimizer]


class Checkpoints:
    """The checkpoints of one run.

    A pool of thirty classifiers is large and its members never change, so each of them is written
    once, to a file of its own, and a checkpoint names them.
    """

    def __init__(self, folder: Path, *, config: Mapping[str, Any], classifier_sha256: str) -> None:
        """Take the folder of a run.

        Args:
            folder: Where the run's files stand.
            config: The options of the run.
            classifier_sha256: Digest of the original classifier.
        """
        self._folder, self._pool = folder / "checkpoints", folder / "pool"
        self._whole: set[int] = set()
        """Snapshots that this process wrote or read: what else stands there may be of another run
        that was killed before its first checkpoint, or damaged."""
        self._identity = {"config": config, "classifier_sha256": classifier_sha256}

    def steps(self) -> list[int]:
        """Return the steps after which there is a checkpoint, ascending."""
        names = (re.fullmatch(r"step-(\d+)\.safetensors", p.name) for p in self._folder.glob("*"))
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int, state: RunState) -> None:
        """Write the state after `step` steps.

        Raises:
            CheckpointError: it cannot be written; earlier checkpoints are intact.
        """
        members = state.critics.pool.members
        for number, member in members.items():
            if number not in self._whole:
                write_tensors(self._snapshot(number), member, kind=SNAPSHOT, description={})
                self._whole.add(number)
        description = {**self._identity, "step": step, "pool": sorted(members)}
        write_tensors(self._path(step), _tensors(state), kind=CHECKPOINT, description=description)
        kept = self.steps()[-KEPT:]
        for old in set(self.steps()) - set(kept):
            self._path(old).unlink(missing_ok=True)
        needed = {number for one in kept for number in self._read(one).description["pool"]}
        for path in self._pool.glob("step-*.safetensors"):
            if path not in {self._snapshot(number) for number in needed}:
                path.unlink(missing_ok=True)

    def restore(self, state: RunState) -> int:
        """Load the last state that is complete; return the number of steps done, 0 for none.

        Raises:
            CheckpointError: the checkpoints are of another run, or none of them can be read.
        """
        for folder in (self._folder, self._pool):
            for part in folder.glob(".step-*.safetensors"):  # of a write that was killed
                part.unlink(missing_ok=True)
        damage: CheckpointError | None = None
        for step in reversed(self.steps()):
            try:
                file = self._read(step)
                pool = {
                    number: dict(read_tensors(self._snapshot(number), kind=SNAPSHOT).tensors)
                    for number in file.description["pool"]
                }
            except CheckpointError as error:
                damage = damage or error
                continue
            self._check(file, step)
            _load(file, state)
            state.critics.pool.members.update(pool)
            self._whole = set(pool)
            return step
        if damage is not None:
            raise damage
        return 0

    def _check(self, file: TensorFile, step: int) -> None:
        for key, expected in self._identity.items():
            if file.description.get(key) != expected:
                what = "other options" if key == "config" else "another classifier"
                raise CheckpointError(
                    f"{self._path(step)} is of a run with {what}: choose another folder, or start "
                    "from the config.toml in this one"
                )

    def _read(self, step: int) -> TensorFile:
        return read_tensors(self._path(step), kind=CHECKPOINT)

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08}.safetensors"

    def _snapshot(self, number: int) -> Path:
        return self._pool / f"step-{number:08}.safetensors"


def _modules(state: RunState) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module | None] = {
        "masker": state.masker,
        "averaged": state.averaged,
        "learner": state.critics.learner,
    }
    return {name: module for name, module in modules.items() if module is not None}


def _tensors(state: RunState) -> dict[str, Tensor]:
    """Return all that changes, by name."""
    found: dict[str, Tensor] = {}
    for name, module in _modules(state).items():
        found |= {f"{name}/{key}": tensor for key, tensor in module.state_dict().items()}
    for name, optimiser in state.optimisers.items():
        for number, values in optimiser.state_dict()["state"].items():
            for key, value in values.items():
                if value is not None:
                    found[f"{name}/{number}/{key}"] = torch.as_tensor(value)
    return found


def _load(file: TensorFile, state: RunState) -> None:
    try:
        for name, module in _modules(state).items():
            module.load_state_dict(file.part(name))
        for name, optimiser in state.optimisers.items():
            entries: dict[int, dict[str, Tensor]] = {}
            for key, tensor in file.part(name).items():
                number, _, entry = key.partition("/")
                entries.setdefault(int(number), {})[entry] = tensor
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": entries, "param_groups": groups})
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error
