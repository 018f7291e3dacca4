"""What can be said about arguments before anything is enqueued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError, OptionError
from klieg.kernels.device import Argument

MOST_THREADS: Final = 1024
MOST_BLOCKS: Final = (2**31 - 1, 65_535, 65_535)
"""In x, y and z, the same on every GPU that CUDA 13 supports."""


def check_size(size: int) -> None:
    """Refuse an impossible number of bytes.

    Raises:
        OptionError: it is no whole number, or not positive.
    """
    if type(size) is not int or size < 1:
        raise OptionError(f"size is {size!r}, expected a whole number of bytes, at least 1")


def check_array(array: NDArray[Any], size: int, *, writable: bool) -> None:
    """Refuse an array that cannot be copied to or from `size` bytes.

    Raises:
        InputError: it is not contiguous, too large, or cannot be written to.
    """
    if not array.flags.c_contiguous:
        raise InputError(
            f"the array {array.shape} {array.dtype} has strides {array.strides}, expected a "
            "C-contiguous one: use numpy.ascontiguousarray"
        )
    if array.nbytes > size:
        raise InputError(
            f"the array {array.shape} {array.dtype} has {array.nbytes:,} bytes, but the memory on "
            f"the GPU has {size:,}: allocate as much as is copied"
        )
    if writable and not array.flags.writeable:
        raise InputError(
            f"the array {array.shape} {array.dtype} is read-only, expected one to write into: "
            "use numpy.empty"
        )


def check_room(source: int, destination: int) -> None:
    """Refuse a copy on the GPU of more bytes than there is room for.

    Raises:
        InputError: the destination is smaller than the source.
    """
    if source > destination:
        raise InputError(
            f"{source:,} bytes on the GPU are to be copied, but the destination there has "
            f"{destination:,}: allocate as much as is copied"
        )


def check_launch(
    kernel: str,
    grid: tuple[int, int, int],
    block: int,
    arguments: Sequence[Argument],
    shared: int,
) -> None:
    """Refuse a launch that no GPU can do.

    Raises:
        OptionError: grid, block or shared memory are out of range.
        InputError: an argument is of a type that would be packed wrongly.
    """
    if len(grid) != 3 or not all(
        type(blocks) is int and 1 <= blocks <= most
        for blocks, most in zip(grid, MOST_BLOCKS, strict=True)
    ):
        raise OptionError(
            f"{kernel}: grid is {grid!r}, expected three whole numbers of blocks from 1 to "
            f"{MOST_BLOCKS}: split the work"
        )
    if type(block) is not int or not 1 <= block <= MOST_THREADS:
        raise OptionError(f"{kernel}: block is {block!r} threads, expected 1 to {MOST_THREADS}")
    if type(shared) is not int or shared < 0:
        raise OptionError(f"{kernel}: shared is {shared!r} bytes, expected 0 or more")
    for position, argument in enumerate(arguments):
        if not isinstance(argument, np.int32 | np.uint64 | np.float32):
            raise InputError(
                f"{kernel}: argument {position} is a {type(argument).__name__}, expected "
                "numpy.int32, numpy.uint64 (a pointer) or numpy.float32"
            )
