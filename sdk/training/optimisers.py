"""Optimisers: Adam for the masker, SGD for the classifier that learns along with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from klieg.training.model.critics import Critics
from klieg.training.model.masker import Masker
from klieg.training.settings.options import CriticOptions, OptimiserOptions


class Optimisers:
    """The optimisers of a run. Learning rates follow from the step alone."""

    def __init__(
        self,
        masker: Masker,
        critics: Critics,
        *,
        masker_options: OptimiserOptions,
        critic_options: CriticOptions,
        steps_per_epoch: int,
    ) -> None:
        """Make them.

        Args:
            masker: What Adam moves.
            critics: Their learner, if there is one, is moved by SGD.
            masker_options: The masker's rate and the schedule of all rates.
            critic_options: The learner's rate.
            steps_per_epoch: Steps of an epoch.
        """
        self._options, self._steps_per_epoch = masker_options, steps_per_epoch
        self._masker = [p for p in masker.parameters() if p.requires_grad]
        self.by_name: dict[str, torch.optim.Optimizer] = {
            "adam": torch.optim.Adam(
                self._masker,
                lr=masker_options.learning_rate,
                weight_decay=masker_options.weight_decay,
            )
        }
        self._learner: list[nn.Parameter] = []
        if critics.learner is not None:
            self._learner = list(critics.learner.parameters())
            self.by_name["sgd"] = torch.optim.SGD(
                self._learner,
                lr=critic_options.learning_rate,
                momentum=critic_options.momentum,
                weight_decay=critic_options.weight_decay,
            )
        self._rates = {name: o.param_groups[0]["lr"] for name, o in self.by_name.items()}

    def set_rates(self, step: int) -> None:
        """Set the learning rates of a step, counted from 0."""
        factor = _factor(self._options, step, self._steps_per_epoch)
        for name, optimiser in self.by_name.items():
            for group in optimiser.param_groups:
                group["lr"] = self._rates[name] * factor

    def move_masker(self, gradients: Sequence[Tensor]) -> None:
        """Take a step of the masker; a gradient that is too long is scaled down."""
        self._move("adam", self._masker, gradients, longest=self._options.gradient_norm)

    def move_learner(self, gradients: Sequence[Tensor]) -> None:
        """Take a step of the learner."""
        self._move("sgd", self._learner, gradients)

    def _move(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        gradients: Sequence[Tensor],
        *,
        longest: float | None = None,
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if longest is not None:
            nn.utils.clip_grad_norm_(parameters, longest)
        self.by_name[name].step()
        self.by_name[name].zero_grad(set_to_none=True)


def _factor(options: OptimiserOptions, step: int, steps_per_epoch: int) -> float:
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * options.epochs)))
    return float(0.1 ** (step // steps_per_epoch // options.decay_every))
