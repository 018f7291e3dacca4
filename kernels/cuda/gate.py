"""The class of every question, and which scales count for it, decided on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from klieg.errors import OptionError
from klieg.kernels.cuda.kernels import THREADS, Kernels
from klieg.kernels.device import Workspace
from klieg.kernels.device.array import DeviceArray


@dataclass(frozen=True)
class Gates:
    """What has been decided so far about B images, n questions each, at T steps."""

    targets: DeviceArray
    """[B * n] int64, the class explained; undefined before step 0."""
    used: DeviceArray
    """[B * n, T] int32, 1 where the scale counts; a column is undefined before its step."""
    finite: DeviceArray
    """[B, T] int32, 1 where all logits are finite; a column is undefined before its step."""

    @classmethod
    def empty(cls, workspace: Workspace, images: int, questions: int, steps: int) -> Self:
        """Allocate for `images` images, `questions` questions each, and `steps` steps."""
        asked = images * questions
        return cls(
            DeviceArray.empty(workspace, (asked,), np.int64),
            DeviceArray.empty(workspace, (asked, steps), np.int32),
            DeviceArray.empty(workspace, (images, steps), np.int32),
        )


def gate(
    kernels: Kernels, logits: DeviceArray, asked: DeviceArray, gates: Gates, *, step: int
) -> None:
    """Enqueue one step of the decisions; does not wait.

    Step 0 fixes the classes: those asked for, else the predicted ones (the first of equal logits;
    NaN, which `finite` tells of, counts as largest). It always counts. A later step counts for a
    question whose class was asked for, or is predicted at that step too.

    Args:
        kernels: Where to compute.
        logits: [B, classes] float32 of this step.
        asked: [B * n] int64, the questions about one image side by side; -1 for the predicted
            class. Their range has been checked.
        gates: Where the decisions are; step 0 comes first.
        step: Number of the scale, 0..T - 1.

    Raises:
        OptionError: an array has another type or shape, or there is no such step.
        DeviceError: the kernel cannot be launched.
    """
    images, steps = gates.finite.shape
    questions = gates.targets.shape[0] // images
    classes = logits.shape[1] if len(logits.shape) == 2 else 0
    if logits.dtype != np.float32 or logits.shape[0] != images or classes < 1:
        raise OptionError(
            f"logits are {logits.dtype} {list(logits.shape)}, expected float32 [{images}, classes]"
        )
    if asked.dtype != np.int64 or asked.shape != gates.targets.shape:
        raise OptionError(
            f"asked is {asked.dtype} {list(asked.shape)}, expected int64 [{gates.targets.shape[0]}]"
        )
    if not 0 <= step < steps:
        raise OptionError(f"step is {step}, expected 0..{steps - 1}")
    kernels.launch(
        "klieg_gate",
        (images, 1, 1),
        logits,
        asked,
        gates.targets,
        gates.used,
        gates.finite,
        classes,
        questions,
        step,
        steps,
        shared=THREADS * 3 * 4,
    )
