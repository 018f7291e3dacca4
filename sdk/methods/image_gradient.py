"""Methods that read the map off one gradient by the image, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from klieg.images.batch import Array, Batch, Indices
from klieg.methods.model import Model, RawMaps, chosen_classes


def saliency(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Return the largest absolute gradient of each pixel's channels.

    Simonyan, Vedaldi, Zisserman: Deep inside convolutional networks, 2014, section 3.1.
    """
    return _one_pass(model, batch, "image_gradient", lambda _, grad: largest_magnitude(grad))


def gradient_x_input(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Multiply the gradient by the image minus the mean colour, and sum over channels.

    Shrikumar, Greenside, Shcherbina, Kundaje: Not just a black box, 2016. `raw` is signed: positive
    where the pixel speaks for the class. `maps`, as always its relu, shows these pixels only.
    """
    return _one_pass(
        model,
        batch,
        "image_gradient",
        lambda image, gradient: np.sum((image - model.mean_colour) * gradient, axis=0),
    )


def guided_backprop(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Return the largest absolute guided gradient of each pixel's channels.

    Springenberg, Dosovitskiy, Brox, Riedmiller: Striving for simplicity, 2015, section 3.4.
    """
    return _one_pass(model, batch, "guided_gradient", lambda _, grad: largest_magnitude(grad))


def deconvnet(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Return the largest absolute value of each pixel's channels in the projected-down class.

    Zeiler, Fergus: Visualizing and understanding convolutional networks, ECCV 2014, section 2.1.
    """
    return _one_pass(model, batch, "deconvnet_gradient", lambda _, grad: largest_magnitude(grad))


def largest_magnitude(gradient: Array) -> Array:
    """Return the largest absolute value over the channels of [C, H, W]."""
    return np.asarray(np.abs(gradient).max(axis=0))


def pixel_maps(maps: Sequence[Array], logits: Array, targets: Indices) -> RawMaps:
    """Return raw maps that already have the size of the image."""
    used = np.ones((len(maps), 1), dtype=np.bool_)
    return RawMaps(np.stack(maps).astype(np.float32, copy=False), logits, targets, used)


def _one_pass(
    model: Model, batch: Batch, output: str, fuse: Callable[[Array, Array], Array]
) -> RawMaps:
    rows, gradients = model.run(batch, ("logits", output))
    logits = np.stack(rows)
    images = (batch.images[index] for index in batch.image_index)
    maps = [fuse(image, gradient) for image, gradient in zip(images, gradients, strict=True)]
    return pixel_maps(maps, logits, chosen_classes(logits, batch.targets))
