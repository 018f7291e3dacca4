"""How rows of pixels are divided among blocks that resample them, in pyramid.cu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROWS: Final = 16
"""Rows per block."""
COLUMNS: Final = 1024
"""Columns per block at most: four for each thread."""
SHARED: Final = 48 * 1024
"""Bytes of shared memory that a block of any GPU may have."""


@dataclass(frozen=True)
class Strip:
    """What one block makes of every row."""

    columns: int  # pixels
    pitch: int  # cells that it reads at most
    shared: int  # bytes of shared memory

    def whole(self, width: int, pointer: int) -> bool:
        """Return whether every four columns are complete, at a multiple of 16 bytes."""
        # Blocks begin at multiples of their columns, rows at multiples of the width.
        return width % 4 == 0 and self.columns % 4 == 0 and pointer % 16 == 0


def strip(cells: int, pixels: int, *, per_column: int = 0) -> Strip:
    """Return the widest strip for which shared memory suffices.

    Args:
        cells: Of a row that is read.
        pixels: Of a row that is made.
        per_column: Bytes of shared memory for each column, besides [ROWS, pitch] floats.
    """
    strips = -(-pixels // COLUMNS)
    while True:
        columns = -(-pixels // strips)
        if columns > 4:
            columns += -columns % 4
        # Positions of the first and the last column, and cells on both sides of them.
        pitch = -(-(columns - 1) * cells // pixels) + 4
        shared = ROWS * pitch * 4 + columns * per_column
        if shared <= SHARED:
            return Strip(columns, pitch, shared)
        strips *= 2
