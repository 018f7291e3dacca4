"""The loop of a training run, as a stream of events."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from klieg.errors import DivergedError
from klieg.training.data.batches import Batch, derived_seed, training_batches
from klieg.training.setup import Setup
from klieg.training.step import Step, compute_step


@dataclass(frozen=True)
class Event:
    """A step that has been taken, and what is due after it."""

    step: int
    """Number of steps done."""
    terms: Mapping[str, float]
    """Terms of the loss."""
    epoch: int | None
    """Number of epochs done, where masks are to be looked at."""
    checkpoint: bool
    """Whether the state is to be saved."""


def steps(setup: Setup, *, done: int) -> Iterator[Event]:
    """Take the steps of a run that are left.

    Args:
        setup: The parts, in the state after `done` steps.
        done: Number of steps that a checkpoint has behind it.

    Yields:
        An event after each step.

    Raises:
        DataError: a photo cannot be read.
        DivergedError: a term of the loss became NaN; no weight has moved by it.
    """
    options, schedule, fabric = setup.options, setup.schedule, setup.fabric
    batches = training_batches(
        setup.photos.training,
        options.data,
        schedule,
        range(done, schedule.steps),
        share=slice(fabric.global_rank, None, fabric.world_size),
    )
    saved = done
    for number, batch in enumerate(batches, start=done):
        found = _compute(setup, number, batch)
        _check_finite(found, step=number + 1, saved=saved)
        _move_weights(setup, number, found)
        step = number + 1
        last = step == schedule.steps
        epoch, rest = divmod(step, schedule.steps_per_epoch)
        look = not rest and (last or epoch % options.look_every == 0)
        save = last or step % (options.checkpoint_every or schedule.steps_per_epoch) == 0
        yield Event(step, found.terms, epoch if look else None, save)
        saved = step if save else saved


def _compute(setup: Setup, number: int, batch: Batch) -> Step:
    """Compute the gradients of the step with this number, counted from 0."""
    seed = setup.options.seed
    torch.manual_seed(derived_seed(seed, number, setup.fabric.global_rank))
    images = setup.normalised(batch.images)
    with setup.fabric.autocast():
        return compute_step(
            images,
            setup.labels(images, batch.labels),
            masker=setup.masker,
            critics=setup.critics,
            objective=setup.options.objective,
            infill=setup.infill,
            generator=np.random.default_rng([seed, 4, number]),
        )


def _check_finite(found: Step, *, step: int, saved: int) -> None:
    """Stop before a NaN reaches any weight."""
    bad = [name for name, value in found.terms.items() if not math.isfinite(value)]
    gradients = [*found.masker, *(gradient for one in found.learner for gradient in one)]
    if bad or not all(bool(gradient.isfinite().all()) for gradient in gradients):
        kept = f"the checkpoint after step {saved} is intact" if saved else "no checkpoint yet"
        raise DivergedError(
            f"{', '.join(bad) or 'a gradient'} became NaN or infinite at step {step}; {kept}: "
            "lower optimiser.learning_rate, or look at the photos of that step"
        )


def _move_weights(setup: Setup, number: int, found: Step) -> None:
    """Take the published updates in their order."""
    setup.optimisers.set_rates(number)
    for gradients in found.learner:
        setup.optimisers.move_learner(setup.shared(gradients))
    setup.optimisers.move_masker(setup.shared(found.masker))
    setup.critics.remember(
        number + 1,
        number % setup.schedule.steps_per_epoch,
        np.random.default_rng([setup.options.seed, 5, number]),
    )
    if setup.average is not None:
        setup.average.update_parameters(setup.masker)
