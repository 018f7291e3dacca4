"""Scores and pictures of a masker on photos that it was not trained on.

The original classifier judges, so no boxes are needed: what a good mask shows is enough for it, and
what it hides is missed. The saliency metric (Dabkowski, Gal: Real time image saliency for black box
classifiers, 2017) is the score to choose a model by: it goes along with localisation, without its
labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from klieg.evaluation.metrics.saliency_metric import (
    LEAST_PROBABILITY,
    box_areas,
    saliency_metric,
)
from klieg.maps.regions import binarise, bounding_boxes
from klieg.results.lettering import write_png
from klieg.results.overlay import colour_map
from klieg.training.data.batches import centre_crop
from klieg.training.data.photos import Photo
from klieg.training.model.critics import logits_of
from klieg.training.model.taps import TappedClassifier, evaluating

BATCH: Final = 16
EXAMPLES: Final = 8
"""Photos on a sheet of examples."""


@dataclass(frozen=True)
class Scores:
    """Means over the photos."""

    mask: float
    """Mean of the masks, 0..1."""
    in_correct: float
    """Share of masked-in images (mean colour elsewhere) that are classified right."""
    out_correct: float
    """Share of masked-out images that are classified right."""
    box_area: float
    """Area of the tight box round the largest part of the mask above its mean, 0..1."""
    saliency_metric: float
    """Of the box, with p(label | box enlarged to the image); see `klieg.evaluation`."""


def validate(
    photos: Sequence[Photo],
    *,
    size: int,
    normalise: Callable[[Tensor], Tensor],
    label: Callable[[Tensor, Tensor], Tensor],
    original: nn.Module,
    reader: TappedClassifier,
    masker: nn.Module,
) -> Scores:
    """Score a masker.

    Args:
        photos: Photos with their labels.
        size: Height and width in pixels that the classifier is made for.
        normalise: Turns images [B, 3, S, S] in 0..1 into the classifier's.
        label: Returns the labels [B] to judge by, from normalised images and the photos' own.
        original: The classifier that judges, unchanged by training.
        reader: The classifier whose activations the masker reads.
        masker: The masker.
    """

    @torch.no_grad()
    def scores_of(batch: Sequence[Photo]) -> np.ndarray:  # [scores, B]
        crops = torch.stack([centre_crop(photo, size) for photo in batch])  # [B, 3, S, S] uint8
        images = normalise(crops.float() / 255)
        labels = label(images, torch.tensor([photo.label for photo in batch]))
        mask = masker(reader(images)[1], (size, size)).float()
        right = [
            (logits_of(original, images * kept).argmax(dim=1) == labels).cpu().numpy()
            for kept in (mask, 1 - mask)
        ]
        boxes = bounding_boxes(binarise(mask[:, 0].cpu().numpy()))  # [B, 4]
        boxes[boxes[:, 2] == 0] = (0, 0, size, size)  # no box: nothing is singled out
        cut = torch.stack([_enlarged(crop, box) for crop, box in zip(crops, boxes, strict=True)])
        chances = logits_of(original, normalise(cut.float() / 255)).softmax(dim=1)
        chance = chances.gather(1, labels[:, None])[:, 0].cpu().numpy()
        area = box_areas(boxes, size)
        metric = saliency_metric(area, np.maximum(chance, LEAST_PROBABILITY))
        return np.stack([mask.mean(dim=(1, 2, 3)).cpu().numpy(), *right, area, metric])

    batches = (photos[start : start + BATCH] for start in range(0, len(photos), BATCH))
    with evaluating(original, reader, masker):
        parts = [scores_of(batch) for batch in batches]
    return Scores(*np.concatenate(parts, axis=1).mean(axis=1).tolist())


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
        photos: The photos to show.
        size: Height and width of a picture in pixels.
        normalise: Turns images [B, 3, H, W] in 0..1 into the classifier's.
        classifier: The classifier whose activations the masker reads.
        masker: The masker.
    """
    crops = torch.stack([centre_crop(photo, size) for photo in photos])
    with evaluating(classifier, masker), torch.no_grad():
        _, activations = classifier(normalise(crops.float() / 255))
        mask = masker(activations, (size, size))
    pictures = crops.permute(0, 2, 3, 1).numpy()
    masks = [colour_map(one) for one in mask[:, 0].float().cpu().numpy()]
    write_png(path, np.concatenate([np.hstack(list(pictures)), np.hstack(masks)]))


def _enlarged(crop: Tensor, box: np.ndarray) -> Tensor:
    """Cut the box (xmin, ymin, xmax, ymax) out of a crop [3, S, S] and enlarge it to S x S."""
    left, top, right, bottom = (int(edge) for edge in box)
    size = crop.shape[1]
    part = crop[:, top:bottom, left:right].permute(1, 2, 0).numpy()
    larger = cv2.resize(part, (size, size), interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy(larger).permute(2, 0, 1)
