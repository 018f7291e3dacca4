"""Methods that average the gradient by the image over images around it, or on the way to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from klieg.images.batch import Array, Batch
from klieg.methods.image_gradient import largest_magnitude, pixel_maps
from klieg.methods.model import Model, RawMaps, chosen_classes, images_per_pass

Variants = Callable[[Array, int, int], Array]
"""(image [C, H, W], start, stop) -> images [stop - start, C, H, W]; asked for in order."""


def smoothgrad(
    model: Model, batch: Batch, sizes: Sequence[int], *, samples: int, noise: float, seed: int
) -> RawMaps:
    """Average the gradient over noisy copies, then take the largest absolute value per pixel.

    Smilkov, Thorat, Kim, Viegas, Wattenberg: SmoothGrad, 2017. The class is that of the image
    without noise. Every image gets the same noise, whatever the batch it comes in.

    Args:
        model: The classifier.
        batch: Images and classes.
        sizes: The size of the images.
        samples: Number of noisy copies.
        noise: Standard deviation over the range (largest minus smallest value) of the image.
        seed: Seed of the noise.
    """

    def noisy() -> Variants:
        generator = np.random.default_rng(seed)

        def variants(image: Array, start: int, stop: int) -> Array:
            normal = generator.standard_normal((stop - start, *image.shape), dtype=np.float32)
            return image + normal * np.float32(noise * np.ptp(image))

        return variants

    return _averaged(model, batch, samples, noisy, lambda _, grad: largest_magnitude(grad))


def integrated_gradients(
    model: Model, batch: Batch, sizes: Sequence[int], *, steps: int
) -> RawMaps:
    """Average the gradient on the straight way from the mean colour, times that way.

    Sundararajan, Taly, Yan: Axiomatic attribution for deep networks, ICML 2017, equation 3, by the
    midpoint rule. `raw` is signed and sums to the difference of the logits at both ends, up to the
    error of the rule; `maps`, as always its relu, shows what speaks for the class.

    Args:
        model: The classifier.
        batch: Images and classes.
        sizes: The size of the images.
        steps: Number of points on the way.
    """
    start_colour = model.mean_colour

    def between(image: Array, start: int, stop: int) -> Array:
        share = ((np.arange(start, stop, dtype=np.float32) + 0.5) / steps)[:, None, None, None]
        return start_colour + share * (image - start_colour)

    return _averaged(
        model,
        batch,
        steps,
        lambda: between,
        lambda image, gradient: np.sum((image - start_colour) * gradient, axis=0),
    )


def _averaged(
    model: Model,
    batch: Batch,
    count: int,
    make_variants: Callable[[], Variants],
    fuse: Callable[[Array, Array], Array],
) -> RawMaps:
    """Fuse each image with its gradient averaged over `count` variants of it."""
    logits = model.logits(batch.images)[batch.image_index]  # [N, classes]
    classes = chosen_classes(logits, batch.targets)
    part = images_per_pass(*batch.images.shape[2:])
    maps = []
    for index, target in zip(batch.image_index, classes, strict=True):
        image, variants = batch.images[index], make_variants()
        total = np.zeros(image.shape, dtype=np.float64)
        for start in range(0, count, part):
            copies = variants(image, start, min(start + part, count))
            questions = Batch.single(copies, np.full(len(copies), target))
            _, gradients = model.run(questions, ("logits", "image_gradient"))
            total += np.sum(gradients, axis=0)
        maps.append(fuse(image, np.asarray(total / count, dtype=np.float32)))
    return pixel_maps(maps, logits, classes)
