"""Methods that read the map off a masking model, which is part of the explainer file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from klieg.errors import NumericalError
from klieg.images.batch import Array, Batch
from klieg.kernels.normalisation import ROUNDING
from klieg.methods.image_gradient import pixel_maps
from klieg.methods.model import Model, RawMaps, chosen_classes


def casm(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Return the mask that a trained head makes of the classifier's activations, in one pass.

    Zolna, Geras, Cho: Classifier-agnostic saliency map extraction, AAAI 2019. The mask is 1 where
    the image is salient, whatever the class; the classes returned are those asked for or predicted.

    Raises:
        NumericalError: the mask has values outside 0..1.
    """
    rows, masks = model.run(batch, ("logits", "mask"))
    logits = np.stack(rows)
    raw = [_checked(mask[0]) for mask in masks]
    return pixel_maps(raw, logits, chosen_classes(logits, batch.targets))


def _checked(mask: Array) -> Array:
    """Return a mask [S, S] freed from rounding."""
    low, high = mask.min(), mask.max()
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise NumericalError(
            f"the mask has values in {low:.3g}..{high:.3g}, expected 0..1: export the model again "
            "with a masker that ends in a sigmoid"
        )
    return np.asarray(mask.clip(0, 1))
