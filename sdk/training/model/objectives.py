"""The loss of a masker, term by term.

Notation: m mask in 0..1 with mean a per image [B], 1 = salient; x (1 - m) the masked-out and x m
the masked-in image; p the critic's softmax; k [B] whether the clean image is classified right.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from klieg.training.settings.options import ObjectiveOptions, Variant

BORDER = 4
"""Rows and columns along the border that the released total variation penalises."""


def out_entropy(logits_out: Tensor, correct: Tensor) -> Tensor:
    """Return mean_i k_i sum_j p_ij ln p_ij: minus the masked-out entropy, on clean-correct images.

    Zolna et al., section 3; Phang et al., equation of masked-out maximum entropy.
    """
    log_p = functional.log_softmax(logits_out, dim=1)
    return (correct * (log_p.exp() * log_p).sum(dim=1)).mean()


def out_classification(logits_out: Tensor, labels: Tensor) -> Tensor:
    """Return mean_i ln p_i,y: minus the masked-out cross entropy, of all images."""
    return -functional.cross_entropy(logits_out, labels)


def in_classification(logits_in: Tensor, labels: Tensor) -> Tensor:
    """Return mean_i -ln p_i,y: the masked-in cross entropy, of all images."""
    return functional.cross_entropy(logits_in, labels)


def size_out(mean: Tensor, correct: Tensor, logits_out: Tensor, labels: Tensor) -> Tensor:
    """Return -mean_i relu(c_i - a_i), c_i = k_i and the masked-out image is classified wrong.

    Only a mask that already does its work is pressed to be smaller.
    """
    confused = correct.bool() & (logits_out.argmax(dim=1) != labels)
    return -functional.relu(confused.to(mean.dtype) - mean).mean()


def size_in(mean: Tensor, logits_in: Tensor, labels: Tensor) -> Tensor:
    """Return -mean_i relu(c_i - a_i), c_i = the masked-in image is classified right."""
    kept = logits_in.argmax(dim=1) == labels
    return -functional.relu(kept.to(mean.dtype) - mean).mean()


def total_variation(mask: Tensor, variant: Variant) -> Tensor:
    """Return the sum of squared differences of neighbours, per image.

    Args:
        mask: [B, 1, H, W].
        variant: "paper", or "released": half of that, plus 0.15 times the sum of m^2 over the four
            outermost rows and columns on each side.
    """
    rows = (mask[:, :, 1:] - mask[:, :, :-1]).square().sum()
    columns = (mask[:, :, :, 1:] - mask[:, :, :, :-1]).square().sum()
    if variant == "paper":
        return (rows + columns) / len(mask)
    squared = mask.square()
    border = squared.sum() - squared[:, :, BORDER:-BORDER, BORDER:-BORDER].sum()
    return (rows + columns + 0.3 * border) / (2 * len(mask))


@dataclass(frozen=True)
class Judgement:
    """Answers of the critics to a batch and its masks."""

    labels: Tensor  # [B]
    correct: Tensor  # [B] 1 where the clean image is classified right, else 0
    logits_out: Tensor | None  # [B, classes] of the masked-out images, if needed
    logits_in: Tensor | None  # [B, classes] of the masked-in images, if needed


def terms(options: ObjectiveOptions, mask: Tensor, judged: Judgement) -> dict[str, Tensor]:
    """Return the weighted terms of the loss by name; the loss is their sum.

    Args:
        options: Weights; a term without weight is left out.
        mask: [B, 1, H, W].
        judged: The critics' answers.
    """
    mean, labels = mask.mean(dim=(1, 2, 3)), judged.labels
    found: dict[str, Tensor] = {}

    def add(name: str, weight: float, term: Tensor) -> None:
        if weight:
            found[name] = weight * term

    if judged.logits_out is not None:
        out = judged.logits_out
        add("out_entropy", options.out_entropy, out_entropy(out, judged.correct))
        add("out_classification", options.out_classification, out_classification(out, labels))
        add("size_out", options.size_out, size_out(mean, judged.correct, out, labels))
    if judged.logits_in is not None:
        inside = judged.logits_in
        add("in_classification", options.in_classification, in_classification(inside, labels))
        add("size_in", options.size_in, size_in(mean, inside, labels))
    if options.variation:
        # The released code adds it once for each direction.
        directions = (judged.logits_out is not None) + (judged.logits_in is not None)
        times = directions if options.variation_variant == "released" else 1
        variation = total_variation(mask, options.variation_variant)
        add("variation", times * options.variation, variation)
    if options.area_weight:
        add("area", options.area_weight, (mean - options.area).square().mean())
    return found
