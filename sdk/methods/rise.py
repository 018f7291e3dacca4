"""RISE: what a classifier still recognises when random parts of the image are hidden.

Petsiuk, Das, Saenko: RISE, randomized input sampling for explanation of black-box models, BMVC
2018, equation 4 and the masks of section 3.2. Equation 6 divides by the expected number of masks
that show a pixel. Here it is the number that did show it: otherwise the chance of some pixels to be
shown more often than others is most of the map wherever the model is insensitive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from klieg.images.batch import Array, Batch
from klieg.methods.image_gradient import pixel_maps
from klieg.methods.model import Model, RawMaps, chosen_classes, images_per_pass
from klieg.model_file.probabilities import probabilities


def rise(
    model: Model,
    batch: Batch,
    sizes: Sequence[int],
    *,
    masks: int,
    cells: int,
    visible: float,
    seed: int,
) -> RawMaps:
    """Average, per pixel, the probability of the class over the random masks that show it.

    Needs only logits. What a mask hides becomes the mean colour. All images of a batch and all
    their classes see the same masks, which exist only while they are needed.

    Args:
        model: The classifier.
        batch: Images and classes.
        sizes: The size S of the images.
        masks: Number of masks.
        cells: Cells of a mask along each side.
        visible: Share of the cells that a mask shows.
        seed: Seed of the masks.
    """
    logits = model.logits(batch.images)[batch.image_index]  # [N, classes]
    classes = chosen_classes(logits, batch.targets)
    size, mean = sizes[0], model.mean_colour
    total = np.zeros((len(batch.image_index), size, size), dtype=np.float64)
    stream = random_masks(size, cells=cells, visible=visible, seed=seed)
    shown_sum = np.full((size, size), 1e-9)  # not 0: a pixel that no mask shows gets no evidence
    part = images_per_pass(size, size)
    for start in range(0, masks, part):
        shown = np.stack([next(stream) for _ in range(min(part, masks - start))])  # [M, S, S]
        shown_sum += shown.sum(axis=0, dtype=np.float64)
        for number, image in enumerate(batch.images):
            rows = np.flatnonzero(batch.image_index == number)
            masked = mean + shown[:, None] * (image - mean)  # [M, C, S, S]
            scores = probabilities(model.logits(masked), model.probability)[:, classes[rows]]
            total[rows] += np.einsum("mn,mhw->nhw", scores, shown, dtype=np.float64)
    return pixel_maps(list(total / shown_sum), logits, classes)


def random_masks(size: int, *, cells: int, visible: float, seed: int) -> Iterator[Array]:
    """Yield masks [size, size] in 0..1 without end.

    Each is a coarse grid of zeros and ones, enlarged by one cell more than needed and cut out at a
    random place, so that its edges are soft and lie anywhere.
    """
    generator = np.random.default_rng(seed)
    cell = -(-size // cells)
    larger = (cells + 1) * cell
    while True:
        grid = (generator.random((cells, cells)) < visible).astype(np.float32)
        top, left = generator.integers(0, cell, 2)
        smooth = cv2.resize(grid, (larger, larger), interpolation=cv2.INTER_LINEAR)
        yield np.asarray(smooth[top : top + size, left : left + size], dtype=np.float32)
