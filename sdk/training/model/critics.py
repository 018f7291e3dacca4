"""The classifiers that judge masked images: the original, or copies of it that go on learning.

CASM trains a masker against no classifier in particular: one copy of the original keeps learning
from clean and masked images, and earlier states of it stay in a pool.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from klieg.training.model.taps import TappedClassifier
from klieg.training.settings.options import CriticOptions

State = dict[str, Tensor]


@dataclass
class Pool:
    """Earlier states of the learner, each with the number of the step that it was taken after."""

    size: int
    members: dict[int, State] = field(default_factory=dict)

    def add(self, step: int, state: State, generator: np.random.Generator) -> None:
        """Keep a copy of a state; when full, in place of one drawn at random."""
        if len(self.members) >= self.size:
            del self.members[int(generator.choice(sorted(self.members)))]
        # A tensor on the CPU would otherwise share its memory with the learner.
        self.members[step] = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def draw(self, generator: np.random.Generator) -> State:
        """Return a member, all with the same probability."""
        return self.members[int(generator.choice(sorted(self.members)))]


@dataclass(frozen=True)
class Critic:
    """The judge of one batch."""

    classifier: nn.Module
    learns: bool
    """Whether it learns from the masked images that it judges."""


class Critics:
    """All classifiers of a run. None of them gets gradients by itself: see `step`."""

    def __init__(
        self, classifier: nn.Module, options: CriticOptions, taps: tuple[str, ...]
    ) -> None:
        """Copy the classifier as often as the regime needs.

        Args:
            classifier: The original [B, C, H, W] to [B, classes]; it is not changed.
            options: The regime.
            taps: The layers that a masker reads.
        """
        self.options = options
        self.original = TappedClassifier(
            copy.deepcopy(classifier).requires_grad_(False), taps
        ).eval()
        self.learner: TappedClassifier | None = None
        self._past: nn.Module | None = None
        self.pool = Pool(options.pool_size)
        if options.regime == "agnostic":
            self.learner = TappedClassifier(copy.deepcopy(classifier), taps)
            self.learner.requires_grad_(True)
            self.learner.train(options.mode == "train")
            if options.historic and options.use_pool:
                self._past = copy.deepcopy(classifier).eval().requires_grad_(False)

    @property
    def reads_learner(self) -> bool:
        """Whether the masker reads the activations of the learner."""
        return self.learner is not None and self.options.taps == "trained"

    def to(self, device: torch.device) -> None:
        """Move all classifiers; channels-last is twice as fast on processors."""
        for module in (self.original, self.learner, self._past):
            if module is not None:
                module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def sized(self, images: Tensor) -> Tensor:
        """Return images [B, C, H, W] at the size that they are judged at."""
        size = self.options.image_size
        if size is not None and (size, size) != tuple(images.shape[2:]):
            images = functional.interpolate(
                images, size=(size, size), mode="bilinear", align_corners=False, antialias=True
            )
        return images.contiguous(memory_format=torch.channels_last)

    def choose(self, generator: np.random.Generator) -> Critic:
        """Return the judge of the next batch."""
        if self.learner is None:
            return Critic(self.original, learns=False)
        if generator.random() >= self.options.historic:
            return Critic(self.learner, learns=True)
        if self._past is None or not self.pool.members:
            return Critic(self.learner, learns=False)
        self._past.load_state_dict(self.pool.draw(generator))
        return Critic(self._past, learns=False)

    def remember(self, step: int, batch_of_epoch: int, generator: np.random.Generator) -> None:
        """Put the learner into the pool when it is time; `step` steps are done."""
        every = self.options.snapshot_every
        due = batch_of_epoch % every == every - 1 or not self.pool.members
        if self._past is not None and self.learner is not None and due:
            self.pool.add(step, self.learner.classifier.state_dict(), generator)


def logits_of(classifier: nn.Module, images: Tensor) -> Tensor:
    """Return the logits [B, classes] of a classifier, tapped or not."""
    output = classifier(images)
    logits: Tensor = output[0] if isinstance(output, tuple) else output
    return logits.float()


def learning_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of a critic that learns: its mean cross entropy."""
    return functional.cross_entropy(logits, labels)
