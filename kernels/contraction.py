"""CAMERAS' fusion of scales without full-size intermediates: the blocked contraction.

Published form, for scales t with activations A_t and gradients W_t (both [K, h_t, w_t]):

    map = sum_k (mean_t enlarge(A_t))_k * (mean_t enlarge(W_t))_k            [H, W]

Enlargement is linear. With B [pixels, cells] the bilinear weights of all scales, and A, W
[cells, K] the cells of all scales, the map is the diagonal of B (W A^T) B^T over the number of
scales squared. A tile of pixels touches few cells, so per tile one small Gram matrix
W_tile A_tile^T takes the channels out, and no [K, H, W] tensor ever exists. `contraction_plain` is
the published form, the truth in tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.kernels.interpolation import bilinear_weights, enlarge

Array = NDArray[np.float32]

TILES: Final = (8, 14, 16, 20, 28, 32)
"""Sides of tiles to choose from, in pixels."""

BYTES_PER_FLOP: Final = 1 / 40
"""Gathered bytes that take as long as one operation of a product; measured: kernels/DESIGN.md."""


def contract(
    activations: Sequence[Array],
    gradients: Sequence[Array],
    size: tuple[int, int],
    *,
    tile: int | None = None,
) -> Array:
    """Fuse the scales of one image into its CAMERAS map before relu.

    Args:
        activations: One [K, h_t, w_t] float32 per counted scale.
        gradients: One [K, h_t, w_t] float32 per counted scale, or [K, 1, 1] where the gradient is
            the same everywhere.
        size: Height and width of the map.
        tile: Side of the square of pixels that is fused at once; None for the cheapest.

    Returns:
        The map [H, W] float32, equal to `contraction_plain.contract_plain` up to rounding.
    """
    if all(gradient.shape[1:] == (1, 1) for gradient in gradients):
        return _contract_constant(activations, gradients, size)
    grids = [(a.shape[1], a.shape[2]) for a in activations]
    tile = _cheapest_tile(grids, size, activations[0].shape[0]) if tile is None else tile
    vertical = [_Axis(cells, size[0], tile) for cells, _ in grids]
    horizontal = [_Axis(cells, size[1], tile) for _, cells in grids]
    a_cells, w_cells = _stack(activations, grids), _stack(gradients, grids)
    strips = []
    a = w = np.empty(0, dtype=np.float32)
    for row in range(vertical[0].tiles):  # one strip of tiles from left to right at a time
        weights, index = _strip(vertical, horizontal, row)
        if row == 0:  # buffers for all strips: new memory costs as much as filling it
            a, w = (np.empty((*index.shape, a_cells.shape[1]), np.float32) for _ in range(2))
        np.take(a_cells, index, axis=0, out=a, mode="clip")  # [tiles, cells, K]
        np.take(w_cells, index, axis=0, out=w, mode="clip")
        gram = w @ a.transpose(0, 2, 1)  # [tiles, cells, cells]: the channels are summed here
        fused = np.einsum("npc,npc->np", weights @ gram, weights)
        strips.append(fused.reshape(-1, tile, tile).transpose(1, 0, 2).reshape(tile, -1))
    whole = np.concatenate(strips)[: size[0], : size[1]]
    return np.ascontiguousarray(whole / np.float32(len(grids) ** 2))


def _cheapest_tile(grids: Sequence[tuple[int, int]], size: tuple[int, int], channels: int) -> int:
    """Choose the tile: small ones gather cells again and again, large ones multiply too many."""

    def cost(tile: int) -> float:
        tiles = -(-size[0] // tile) * -(-size[1] // tile)
        cells = sum(
            (h * tile // size[0] + 2) * (w * tile // size[1] + 2) for h, w in grids
        )  # a tile reads about this many
        flops = tiles * cells**2 * 2 * (channels + tile**2)
        return tiles * cells * channels * 8 + flops * BYTES_PER_FLOP

    return min(TILES, key=cost)


class _Axis:
    """One axis of one scale, cut into tiles that all read the same number of cells."""

    def __init__(self, cells: int, pixels: int, tile: int) -> None:
        self.cells = cells
        self.tiles = -(-pixels // tile)
        padded = np.zeros((self.tiles * tile, cells), dtype=np.float32)
        padded[:pixels] = bilinear_weights(cells, pixels)
        per_tile = padded.reshape(self.tiles, tile, cells)
        touched: NDArray[np.bool_] = np.any(per_tile, axis=1)  # [tiles, cells]
        first = touched.argmax(axis=1)
        count = (cells - touched[:, ::-1].argmax(axis=1) - first).max()
        self.index = np.minimum(first, cells - count)[:, None] + np.arange(count)  # [tiles, count]
        self.weights = np.take_along_axis(per_tile, self.index[:, None, :], axis=2)


def _strip(
    vertical: Sequence[_Axis], horizontal: Sequence[_Axis], row: int
) -> tuple[Array, NDArray[np.intp]]:
    """Return B [tiles, tile * tile, cells] of one strip and the cells [tiles, cells] it reads."""
    weights, indices, offset = [], [], 0
    for v, h in zip(vertical, horizontal, strict=True):
        product = v.weights[row][None, :, None, :, None] * h.weights[:, None, :, None, :]
        weights.append(product.reshape(h.tiles, -1, v.index.shape[1] * h.index.shape[1]))
        index = offset + v.index[row][None, :, None] * h.cells + h.index[:, None, :]
        indices.append(index.reshape(h.tiles, -1))
        offset += v.cells * h.cells
    return np.concatenate(weights, axis=2), np.concatenate(indices, axis=1)


def _stack(scales: Sequence[Array], grids: Sequence[tuple[int, int]]) -> Array:
    """Stack the cells of all scales [cells, K], channels last: a gather then copies whole rows."""
    channels = scales[0].shape[0]
    stacked = np.empty((sum(h * w for h, w in grids), channels), dtype=np.float32)
    end = 0
    for scale, (h, w) in zip(scales, grids, strict=True):
        start, end = end, end + h * w
        cells = np.broadcast_to(scale, (channels, h, w)).reshape(channels, -1)
        cv2.transpose(np.ascontiguousarray(cells), stacked[start:end])
    return stacked


def _contract_constant(
    activations: Sequence[Array], gradients: Sequence[Array], size: tuple[int, int]
) -> Array:
    """Take the channel sum first: with W constant in space, map = mean_t enlarge(W . A_t).

    einsum, for the reason given in `interpolation.enlarge`.
    """
    mean_gradient = np.mean([gradient[:, 0, 0] for gradient in gradients], axis=0)  # [K]
    total = np.zeros(size, dtype=np.float32)
    for activation in activations:
        total += enlarge(np.einsum("k,khw->hw", mean_gradient, activation), *size)
    return np.asarray(total / len(activations), dtype=np.float32)
