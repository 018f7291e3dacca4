"""One step of training: masks, the critics' judgement, and the gradients of both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from klieg.training.model.critics import Critics, learning_loss, logits_of
from klieg.training.model.infilling import Infiller
from klieg.training.model.masker import Masker
from klieg.training.model.objectives import Judgement, terms
from klieg.training.settings.options import ObjectiveOptions

Gradients = list[Tensor]


@dataclass(frozen=True)
class Step:
    """Losses and gradients of one batch. No weight has moved yet."""

    terms: dict[str, float]
    """Terms of the loss, and the mean of the masks as `mask`."""
    masker: Gradients
    """One per parameter of the masker that learns."""
    learner: list[Gradients]
    """For each update of the learner in turn, one per parameter: clean images, masked images."""


def compute_step(
    images: Tensor,
    labels: Tensor,
    *,
    masker: Masker,
    critics: Critics,
    objective: ObjectiveOptions,
    infill: Infiller,
    generator: np.random.Generator,
) -> Step:
    """Compute the gradients of a batch.

    All gradients are computed before any weight moves: the published order moves the classifier
    between the two passes through it, so that its gradients belong to no state of it at all.

    Args:
        images: Normalised images [B, C, H, W].
        labels: [B].
        masker: The masker; its mode is left alone.
        critics: The classifiers.
        objective: Weights of the terms.
        infill: Replaces the masked part of the images.
        generator: Draws the judge.
    """
    learner = critics.learner
    gradients: list[Gradients] = []
    if learner is None:
        logits, activations = _without_gradient(critics.original, images)
    else:
        logits, activations = learner(images if critics.reads_learner else critics.sized(images))
        gradients.append(_gradients(learning_loss(logits.float(), labels), learner.parameters()))
        if not critics.reads_learner:
            activations = _without_gradient(critics.original, images)[1]
    correct = (logits.detach().argmax(dim=1) == labels).float()
    height, width = images.shape[2:]
    mask = masker([activation.detach() for activation in activations], (height, width))
    critic = critics.choose(generator)
    shown_out = infill(images, 1 - mask) if objective.judges_out else None
    shown_in = infill(images, mask) if objective.judges_in else None

    def judge(shown: Tensor | None) -> Tensor | None:
        return None if shown is None else logits_of(critic.classifier, critics.sized(shown))

    judged = Judgement(labels, correct, judge(shown_out), judge(shown_in))
    losses = terms(objective, mask.float(), judged)
    loss = torch.stack(list(losses.values())).sum()
    # Not the critic's parameters: the engine then leaves their gradients out.
    masker_gradients = _gradients(loss, _learning(masker), retain=critic.learns)
    if critic.learns:
        answers = [one for one in (judged.logits_out, judged.logits_in) if one is not None]
        masked = torch.stack([learning_loss(answer, labels) for answer in answers]).sum()
        gradients.append(_gradients(masked, critic.classifier.parameters()))
    values = {name: float(term.detach()) for name, term in losses.items()}
    values["mask"] = float(mask.detach().mean())
    return Step(values, masker_gradients, gradients)


def _without_gradient(
    classifier: Callable[[Tensor], tuple[Tensor, list[Tensor]]], images: Tensor
) -> tuple[Tensor, list[Tensor]]:
    with torch.no_grad():
        return classifier(images)


def _learning(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _gradients(loss: Tensor, parameters: Iterable[Tensor], *, retain: bool = False) -> Gradients:
    """Return d loss / d parameter; 0 for parameters that the loss does not depend on."""
    wanted = list(parameters)
    found = torch.autograd.grad(loss, wanted, retain_graph=retain, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(wanted, found, strict=True)
    ]
