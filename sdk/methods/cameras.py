"""CAMERAS: activations and gradients of several image sizes, fused at full resolution.

Jalwana, Akhtar, Bennamoun, Mian: CAMERAS, enhanced resolution and sanity preserving class
activation mapping for image saliency, CVPR 2021; sizes and the class gate as in its released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from klieg.images.batch import Array, Batch
from klieg.kernels.contraction import contract
from klieg.methods.model import Model, RawMaps, chosen_classes


def cameras(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Fuse the scales of each image; several classes of one image share its passes.

    A scale t counts for an image if a class was asked for, or if the class predicted at scale t is
    the one predicted at the first scale. With A* and W* the means over the counted scales of the
    activations and gradients enlarged to S x S, the raw map is sum_k A*_k W*_k.

    Args:
        model: The classifier.
        batch: Images of size S and classes.
        sizes: Image sizes, sizes[0] = S.
    """
    first = model(batch)
    classes = chosen_classes(first.logits, batch.targets)
    used = np.ones((len(classes), len(sizes)), dtype=np.bool_)
    activations = [[activation] for activation in first.activation]
    gradients = [[gradient] for gradient in first.gradient]
    # Largest first: what the engine's allocator keeps for it then serves all smaller ones.
    for scale in range(len(sizes) - 1, 0, -1):
        images = enlarge_images(batch.images, sizes[scale])
        larger = model(Batch(images, classes, batch.image_index))
        used[:, scale] = (batch.targets >= 0) | (larger.logits.argmax(axis=1) == classes)
        for row in np.flatnonzero(used[:, scale]):
            activations[row].append(larger.activation[row])
            gradients[row].append(larger.gradient[row])
    full = (sizes[0], sizes[0])
    raw = [contract(a, w, full) for a, w in zip(activations, gradients, strict=True)]
    return RawMaps(np.stack(raw), first.logits, classes, used)


def enlarge_images(images: Array, size: int) -> Array:
    """Enlarge images [B, C, S, S] to [B, C, size, size]: bicubic, a = -0.75, half-pixel centres."""
    batch, channels = images.shape[:2]
    larger = np.empty((batch, channels, size, size), dtype=np.float32)
    for source, destination in zip(
        images.reshape(-1, *images.shape[2:]), larger.reshape(-1, size, size), strict=True
    ):
        cv2.resize(source, (size, size), dst=destination, interpolation=cv2.INTER_CUBIC)
    return larger
