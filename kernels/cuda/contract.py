"""CAMERAS' fusion of scales on the device; the truth is `klieg.kernels.contraction_plain`."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import OptionError
from klieg.kernels.cuda.kernels import THREADS, Kernels
from klieg.kernels.device.array import DeviceArray

CELLS: Final = 128
"""Cells that a tile may touch, all scales together: contract.cu."""
COLUMNS: Final = 64
"""Columns of cells that a tile may touch, likewise."""
SCALES: Final = 16
"""Scales at most: contract.cu."""
LARGEST_TILE: Final = 32
"""Pixels along a side: contract.cu."""
BLOCKS: Final = 264
"""Channels are shared out to as many blocks as run at once where there are 132 multiprocessors."""
LARGEST_GRID: Final = 65_535
"""Blocks along any but the first axis of a launch."""
LEAST_STEPS: Final = 8
"""Steps of channels that are worth a block."""
PACKING_CELLS: Final = 16
"""Cells of a block: pack.cu."""
PACKING_THREADS: Final = 1024
"""Threads of a block: pack.cu."""
TAIL: Final = 32
"""Bytes behind the channels of a cell: pack.cu."""


class Contraction:
    """The scales of one batch, added one after another and then fused.

    A scale's activations and gradients may be dropped once they are added, unless gradients are
    constant in space: those are kept, and every activation is read once, when all are there.
    """

    def __init__(
        self,
        kernels: Kernels,
        *,
        size: tuple[int, int],
        questions: int = 1,
        exact: bool = False,
    ) -> None:
        """Begin a batch.

        Args:
            kernels: Where to compute.
            size: Height and width of the maps.
            questions: Maps per image.
            exact: Multiply float32 as it is, several times slower. Otherwise its factors are
                rounded to the 11 significant bits that tensor cores take (sums stay float32).
        """
        self._kernels = kernels
        self._size, self._questions = size, questions
        self._exact = exact
        self._added: list[tuple[DeviceArray, DeviceArray]] = []
        self._packed: list[tuple[DeviceArray, DeviceArray]] = []
        self._grids: list[tuple[int, int]] = []
        self._form: tuple[tuple[int, ...], np.dtype[Any]] | None = None

    def add(self, activation: DeviceArray, gradient: DeviceArray) -> None:
        """Add the next scale.

        Args:
            activation: [B, K, h, w] float32 or float16.
            gradient: [B * questions, K, h, w] of the same type, or [B * questions, K, 1, 1] where
                it is the same everywhere.

        Raises:
            OptionError: shapes or types do not go together, or there are too many scales.
        """
        self._check(activation, gradient)
        self._grids.append((activation.shape[2], activation.shape[3]))
        constant = gradient.shape[2:] == (1, 1)
        if constant and len(self._added) == len(self._grids) - 1:
            self._added.append((activation, gradient))
            return
        for earlier in self._added:  # constant at their scale, but not at this one
            self._packed.append(self._pack(*earlier))
        self._added.clear()
        self._packed.append(self._pack(activation, gradient))

    def fuse(self, used: DeviceArray) -> DeviceArray:
        """Fuse the scales that count.

        Args:
            used: [B * questions, T] int32, 0 where a scale does not count; at least one does.

        Returns:
            Maps before relu [B * questions, H, W] float32.

        Raises:
            OptionError: `used` has another shape, or no tile is small enough for so many cells.
        """
        scales = len(self._grids)
        if used.dtype != np.int32 or len(used.shape) != 2 or used.shape[1] != scales:
            raise OptionError(
                f"used is {used.dtype} {list(used.shape)}, expected int32 [maps, {scales}]"
            )
        grids = DeviceArray.of(self._kernels.workspace, np.array(self._grids, dtype=np.int32))
        raw = DeviceArray.empty(self._kernels.workspace, (used.shape[0], *self._size), np.float32)
        fuse = self._fuse_constant if self._added else self._fuse_varying
        fuse(used, grids, raw)
        return raw

    def _pack(
        self, activation: DeviceArray, gradient: DeviceArray
    ) -> tuple[DeviceArray, DeviceArray]:
        """Put channels last: [rows, h * w, padded], padded a multiple of 32, and their unit."""
        images, channels, height, width = activation.shape
        cells, padded = height * width, 32 * ceil(channels / 32)
        kind = np.dtype(np.float32 if self._exact and not _is_half(activation) else np.float16)
        row = padded + TAIL // kind.itemsize
        packed = [
            DeviceArray.empty(self._kernels.workspace, (tensor.shape[0], cells, row), kind)
            for tensor in (activation, gradient)
        ]
        self._kernels.launch(
            f"klieg_pack_{_name(activation.dtype)}_to_{_name(kind)}",
            (ceil(cells / PACKING_CELLS), images + gradient.shape[0], 1),
            activation,
            gradient,
            *packed,
            images,
            channels,
            cells,
            gradient.shape[2] * gradient.shape[3],
            padded,
            threads=PACKING_THREADS,
        )
        return packed[0], packed[1]

    def _fuse_varying(self, used: DeviceArray, grids: DeviceArray, raw: DeviceArray) -> None:
        scales = len(self._packed)
        (first, _), maps = self._packed[0], used.shape[0]
        addresses = [[a.pointer for a, _ in self._packed], [g.pointer for _, g in self._packed]]
        stacks = DeviceArray.of(self._kernels.workspace, np.array(addresses, dtype=np.uint64))
        padded = first.shape[2] - TAIL // first.dtype.itemsize
        tile = largest_tile(self._grids, self._size)
        tiles = ceil(self._size[0] / tile) * ceil(self._size[1] / tile)
        all_steps = padded // (32 if _is_half(first) else 16)
        shares = max(1, min(BLOCKS // (tiles * maps), all_steps // LEAST_STEPS))
        steps = ceil(all_steps / shares)
        shares = ceil(all_steps / steps)
        part = DeviceArray.empty(self._kernels.workspace, (shares, *raw.shape), np.float32)
        self._kernels.launch(
            f"klieg_contract_{_name(first.dtype)}",
            (tiles, shares, maps),
            stacks,
            grids,
            used,
            part,
            scales,
            padded,
            self._questions,
            tile,
            *self._size,
            steps,
        )
        pixels = self._size[0] * self._size[1]
        self._kernels.launch(
            "klieg_contract_finish",
            (ceil(pixels / THREADS), maps, 1),
            part,
            used,
            raw,
            shares,
            scales,
            pixels,
        )

    def _fuse_constant(self, used: DeviceArray, grids: DeviceArray, raw: DeviceArray) -> None:
        workspace, scales = self._kernels.workspace, len(self._added)
        maps, channels = self._added[0][1].shape[:2]
        kind = _name(self._added[0][0].dtype)
        pointers = np.array([gradient.pointer for _, gradient in self._added], dtype=np.uint64)
        gradients = DeviceArray.of(workspace, pointers)
        total, chunks = sum(h * w for h, w in self._grids), ceil(channels / THREADS)
        part = DeviceArray.empty(workspace, (chunks, maps, total), np.float32)
        offset = 0
        for activation, _ in self._added:
            cells = activation.shape[2] * activation.shape[3]
            self._kernels.launch(
                f"klieg_contract_constant_{kind}",
                (ceil(cells / 32), chunks, maps),
                activation,
                gradients,
                used,
                part,
                channels,
                cells,
                offset,
                total,
                scales,
                self._questions,
            )
            offset += cells
        self._kernels.launch(
            "klieg_contract_constant_spread",
            (self._size[0], maps, 1),
            part,
            grids,
            used,
            raw,
            chunks,
            total,
            scales,
            *self._size,
            shared=4 * sum(w for _, w in self._grids),
        )

    def _check(self, activation: DeviceArray, gradient: DeviceArray) -> None:
        shapes = f"activation {list(activation.shape)}, gradient {list(gradient.shape)}"
        expected = (activation.shape[0] * self._questions, *activation.shape[1:])
        if len(activation.shape) != 4 or gradient.shape not in (expected, (*expected[:2], 1, 1)):
            raise OptionError(
                f"{shapes}, expected [B, K, h, w] and [B * {self._questions}, K, h or 1, w or 1]"
            )
        if activation.shape[0] + gradient.shape[0] > LARGEST_GRID:
            raise OptionError(
                f"{shapes}, expected at most {LARGEST_GRID:,} images and maps: "
                "compute smaller batches"
            )
        if activation.dtype != gradient.dtype or activation.dtype not in (np.float32, np.float16):
            raise OptionError(
                f"activation is {activation.dtype} and gradient {gradient.dtype}, expected both "
                "float32 or both float16"
            )
        form = (activation.shape[:2], activation.dtype)
        self._form = self._form or form
        if self._form != form:
            raise OptionError(
                f"{shapes} of {form[1]} after [{', '.join(map(str, self._form[0]))}, h, w] of "
                f"{self._form[1]}, expected the same images, channels and type at every scale"
            )
        if len(self._grids) == SCALES:
            raise OptionError(f"more than {SCALES} scales: the kernel fuses at most that many")


def largest_tile(grids: Sequence[tuple[int, int]], size: tuple[int, int]) -> int:
    """Return the side of the largest tile of pixels whose cells and columns the kernel can hold."""
    for tile in range(LARGEST_TILE, 0, -1):
        columns = sum(_touched(width, size[1], tile) for _, width in grids)
        if touched_cells(grids, size, tile).max() <= CELLS and np.max(columns) <= COLUMNS:
            return tile
    raise OptionError(  # 4 cells a pixel and scale: cannot happen with 16 scales
        f"a pixel touches more than {CELLS} cells at {len(grids)} scales"
    )


def touched_cells(
    grids: Sequence[tuple[int, int]], size: tuple[int, int], tile: int
) -> NDArray[np.int64]:
    """Return how many cells of all scales each tile touches, [rows of tiles, columns of tiles]."""
    each = [np.outer(_touched(h, size[0], tile), _touched(w, size[1], tile)) for h, w in grids]
    return np.asarray(np.sum(each, axis=0))


def _touched(cells: int, pixels: int, tile: int) -> NDArray[np.int64]:
    """Return how many cells each tile along one axis touches, [tiles]."""
    position = ((2 * np.arange(pixels) + 1) * cells - pixels) // (2 * pixels)
    lower = position.clip(0, cells - 1)
    upper = np.where(position < 0, 0, np.minimum(position + 1, cells - 1))
    first = np.arange(0, pixels, tile)
    last = np.minimum(first + tile, pixels) - 1
    return np.asarray(upper[last] - lower[first] + 1)


def _is_half(array: DeviceArray) -> bool:
    return array.dtype == np.float16


def _name(dtype: np.dtype[Any]) -> str:
    return "f16" if dtype == np.float16 else "f32"
