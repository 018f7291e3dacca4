"""CAMERAS as published, in plain torch: the truth for the maps and the mark for speed and memory.

Every scale's activations and gradients are enlarged to full size, kept, averaged, multiplied. One
image at a time, as the published code does. Run as a program it measures itself.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from klieg.export.classifiers.torch_tap import Tap, run_tapped

Tensor = torch.Tensor


@dataclass(frozen=True)
class PublishedResult:
    """The map of one image."""

    raw: Tensor  # [S, S] before relu and scaling
    saliency: Tensor  # [S, S] in 0..1
    target: int
    scales_used: list[bool]


def published_cameras(
    module: torch.nn.Module,
    tap: Tap,
    image: Tensor,
    sizes: Sequence[int],
    *,
    target: int | None = None,
) -> PublishedResult:
    """Compute the CAMERAS map of one image.

    Args:
        module: Classifier in evaluation mode.
        tap: The layer to explain.
        image: Normalised image [1, C, S, S].
        sizes: Image sizes, sizes[0] = S.
        target: Class, None for the one predicted at the first size; then only sizes that predict
            the same class count.
    """
    full = (sizes[0], sizes[0])
    activations: list[Tensor] = []
    gradients: list[Tensor] = []
    used = []
    chosen = target
    for size in sizes:
        scaled = image
        if size != sizes[0]:
            scaled = functional.interpolate(
                image, (size, size), mode="bicubic", align_corners=False
            )
        logits, (activation,) = run_tapped(module, [tap], scaled.requires_grad_())
        predicted = int(logits.argmax())
        if chosen is None:
            chosen = predicted
        (gradient,) = torch.autograd.grad(logits[0, chosen], activation)
        activation = activation.detach()
        del logits  # and with it the graph, so that its memory is not counted against the method
        used.append(target is not None or predicted == chosen)
        if used[-1]:
            for kept, tensor in ((activations, activation), (gradients, gradient)):
                kept.append(
                    functional.interpolate(tensor, full, mode="bilinear", align_corners=False)
                )
    mean_activation = sum(activations, start=torch.zeros(())) / len(activations)
    mean_gradient = sum(gradients, start=torch.zeros(())) / len(gradients)
    raw = (mean_activation * mean_gradient).sum(dim=1)[0]
    positive = functional.relu(raw)
    span = positive.max() - positive.min()
    return PublishedResult(raw, (positive - positive.min()) / span, int(chosen or 0), used)


def main() -> None:
    """Print the best time of several runs and the peak memory of this process as JSON."""
    from klieg.export.classifiers.sources import open_source
    from klieg.export.classifiers.torch_classifier import TorchClassifier

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source")
    parser.add_argument("--layer")
    parser.add_argument("--scales", type=int, nargs="+", required=True)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    unit = [0.5, 0.5, 0.5]
    found = open_source(arguments.source, input_size=None, mean=unit, std=unit, class_names=None)
    if not isinstance(found.model, torch.nn.Module):
        parser.error("the published form needs a torch module")
    classifier = TorchClassifier(
        found.model, layer=arguments.layer, input_size=arguments.scales[0], mean=unit, std=unit
    )
    image = torch.rand(1, 3, arguments.scales[0], arguments.scales[0])
    seconds = []
    for _ in range(arguments.repeat):
        start = time.perf_counter()
        # A class is given so that every scale counts, whatever this random image shows.
        published_cameras(classifier.module, classifier.tap, image, arguments.scales, target=0)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": min(seconds), "peak_mib": peak}))


if __name__ == "__main__":
    main()
