"""Reads a file that holds a mask, or the numbers of several objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import InputError


def read_labels(path: Path) -> NDArray[Any]:
    """Return the values of a grey PNG or BMP file: [H, W], 8 or 16 bits, just as they are stored.

    Raises:
        InputError: there is no such file, it is damaged, or it holds colours.
    """
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise InputError(f"cannot read the mask {path}: {error.strerror or error}") from error
    try:
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"cannot decode the mask {path}: {error}") from error
    if values is None:
        raise InputError(f"cannot decode the mask {path}: it is damaged or no PNG file")
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]  # grey that was stored as RGB
    if values.ndim != 2:
        raise InputError(f"the mask {path} holds colours, expected a grey file of object numbers")
    return np.asarray(values)
