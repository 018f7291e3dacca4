"""Methods that weigh the activation of the layer, or read it off there, in one pass.

Each function here turns activation A and gradient W of one question into a coarse map. It is
enlarged before relu, so that raw maps and maps are related in the same way for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from klieg.errors import OptionError
from klieg.images.batch import Array, Batch
from klieg.kernels.interpolation import enlarge
from klieg.methods.model import Model, RawMaps, chosen_classes


def gradcam(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Weigh each channel by its mean gradient: sum_k mean(W_k) A_k.

    Selvaraju et al.: Grad-CAM, ICCV 2017, equations 1 and 2.
    """
    return _weighted_maps(model, batch, sizes, lambda a, w: _weighted(a, w.mean(axis=(1, 2))))


def gradcam_plus_plus(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Weigh each channel by its positive gradients, those on little activation most.

    Chattopadhay, Sarkar, Howlader, Balasubramanian: Grad-CAM++, WACV 2018, equation 19 with the
    score exp(logit), whose three derivatives are powers of W: alpha = W^2 / (2 W^2 + W^3 sum A)
    and weight = sum alpha relu(W). The factor exp(logit), common to all channels, is left out: it
    overflows, and scaling the map takes it out again.
    """

    def fuse(a: Array, w: Array) -> Array:
        positive = np.broadcast_to(np.maximum(w, 0), a.shape)
        slope = 2 + w * a.sum(axis=(1, 2), keepdims=True)  # 1 / alpha, [K, h, w] or [K, 1, 1]
        # Only where an activation is negative can the slope vanish: such cells have no alpha.
        alpha = np.divide(1, slope, out=np.zeros_like(slope), where=slope != 0)
        return _weighted(a, (alpha * positive).sum(axis=(1, 2)))

    return _weighted_maps(model, batch, sizes, fuse)


def hirescam(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Multiply gradient and activation cell by cell: sum_k W_k A_k.

    Draelos, Carin: Use HiResCAM instead of Grad-CAM for faithful explanations, 2020, equation 3.
    """
    return _weighted_maps(model, batch, sizes, _products)


def linear_approx(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Return the signed sum_k W_k A_k: what each cell adds to the logit, to first order.

    Rebuffi et al.: There and back again, CVPR 2020, table 1. The result proper is `raw`, with its
    sign; `maps`, as always its relu, shows what speaks for the class and equals HiResCAM's.
    """
    return _weighted_maps(model, batch, sizes, _products)


def layercam(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Weigh each cell by its positive gradient: sum_k relu(W_k) A_k.

    Jiang et al.: LayerCAM, IEEE TIP 2021, equations 5 to 7.
    """
    return _weighted_maps(model, batch, sizes, lambda a, w: _products(a, np.maximum(w, 0)))


def normgrad(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Multiply the lengths of activation and gradient at each cell u: |A_u| |W_u|.

    Rebuffi et al.: There and back again, CVPR 2020, equation 5 for a convolution of 1 x 1: how
    strongly the cell would change the weights. Where the gradient is the same everywhere, as in
    front of a global pool, the map is that of |A_u| for every class.
    """
    return _weighted_maps(
        model,
        batch,
        sizes,
        lambda a, w: np.asarray(np.linalg.norm(a, axis=0) * np.linalg.norm(w, axis=0)),
    )


def cam(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Weigh each channel by the weight of its mean in the linear layer behind: sum_k w_k A_k.

    Zhou et al.: Learning deep features for discriminative localization, CVPR 2016, equation 2.
    The weights are read off the gradient, which is w_k over the number of cells.

    Raises:
        OptionError: a global average pool and one linear layer is not all that follows the layer.
    """
    first = Batch.single(batch.images[:1], batch.targets[:1])
    result = model(first)
    plain = np.empty_like(first.images)
    plain[...] = model.mean_colour
    elsewhere = model(Batch.single(plain, chosen_classes(result.logits, first.targets)))
    (here,), (there,) = result.gradient, elsewhere.gradient
    size = np.abs(here).max()
    spread = max(np.ptp(here, axis=(1, 2)).max(), np.ptp(there, axis=(1, 2)).max())
    change = np.abs(here.mean(axis=(1, 2)) - there.mean(axis=(1, 2))).max()
    if max(spread, change) > 1e-4 * size:  # float32 rounding alone gives about 1e-6
        varies = "in space" if spread > 1e-4 * size else "with the image"
        raise OptionError(
            f"method 'cam' needs a layer followed by a global average pool and one linear layer, "
            f"but here the gradient varies {varies}: use 'gradcam', which takes any layer"
        )
    return _weighted_maps(
        model,
        batch,
        sizes,
        lambda a, w: _weighted(a, w.mean(axis=(1, 2)) * (a.shape[1] * a.shape[2])),
    )


def excitation_backprop(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Sum the winning probabilities of the layer's neurons over channels.

    Zhang et al.: Top-down neural attention by excitation backprop, ECCV 2016, equation 5.
    """
    return _summed_maps(model, batch, sizes, "excitation")


def contrastive_excitation(model: Model, batch: Batch, sizes: Sequence[int]) -> RawMaps:
    """Sum the winning probabilities for the class minus those against it over channels.

    Zhang et al., section 3.3.
    """
    return _summed_maps(model, batch, sizes, "contrast")


def _weighted(activation: Array, weights: Array) -> Array:
    """Return sum_k weights[k] activation[k]; einsum for the reason in `interpolation.enlarge`."""
    return np.asarray(np.einsum("k,khw->hw", weights, activation))


def _products(activation: Array, gradient: Array) -> Array:
    return np.asarray((activation * gradient).sum(axis=0))


def _weighted_maps(
    model: Model, batch: Batch, sizes: Sequence[int], fuse: Callable[[Array, Array], Array]
) -> RawMaps:
    result = model(batch)
    pairs = zip(result.activation, result.gradient, strict=True)
    return _enlarged((fuse(a, w) for a, w in pairs), result.logits, batch, sizes[0])


def _summed_maps(model: Model, batch: Batch, sizes: Sequence[int], output: str) -> RawMaps:
    logits, neurons = model.run(batch, ("logits", output))
    return _enlarged((n.sum(axis=0) for n in neurons), np.stack(logits), batch, sizes[0])


def _enlarged(cells: Iterable[Array], logits: Array, batch: Batch, size: int) -> RawMaps:
    return RawMaps(
        raw=np.stack([enlarge(np.asarray(cell, dtype=np.float32), size, size) for cell in cells]),
        logits=logits,
        targets=chosen_classes(logits, batch.targets),
        scales_used=np.ones((len(logits), 1), dtype=np.bool_),
    )
