"""Example masks while a run goes on, as pictures to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from klieg.results.lettering import write_png
from klieg.results.overlay import colour_map
from klieg.training.data.batches import centre_crop
from klieg.training.data.photos import Photo
from klieg.training.model.modes import evaluating
from klieg.training.model.taps import TappedClassifier

EXAMPLES: Final = 8
"""Photos on a sheet."""


def save_examples(
    path: Path,
    photos: Sequence[Photo],
    *,
    size: int,
    normalise: Callable[[Tensor], Tensor],
    classifier: TappedClassifier,
    masker: nn.Module,
) -> None:
    """Write a sheet: photos in the first row, their masks in the second.

    Args:
        path: The PNG.
        photos: What to show.
        size: Height and width of a picture in pixels.
        normalise: Turns images [B, 3, H, W] in 0..1 into the classifier's.
        classifier: What the masker reads.
        masker: The head.
    """
    crops = torch.stack([centre_crop(photo, size) for photo in photos])
    with evaluating(classifier, masker), torch.no_grad():
        _, activations = classifier(normalise(crops.float() / 255))
        mask = masker(activations, (size, size))
    pictures = crops.permute(0, 2, 3, 1).numpy()
    masks = [colour_map(one) for one in mask[:, 0].float().cpu().numpy()]
    write_png(path, np.concatenate([np.hstack(list(pictures)), np.hstack(masks)]))
