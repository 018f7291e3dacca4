"""A DICOM file as a photo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from klieg.errors import ImageDecodeError, ImageTooLargeError
from klieg.images.decoding import MAX_PIXELS

if TYPE_CHECKING:
    from pydicom import Dataset


def read_dicom(path: Path) -> NDArray[np.uint8]:
    """Return the only frame of a DICOM file as [H, W, 3] uint8 RGB.

    Grey values go through the file's modality table or rescaling and its first table or window
    of interest (DICOM PS3.3, C.11.1 and C.11.2), whose ends become 0 and 255; without one, the
    smallest and largest value do. MONOCHROME1 is inverted. Colours of 8 bits stay as they are.

    Raises:
        ImageDecodeError: the file is no DICOM image, damaged, of several frames, or of a kind that
            is not read.
        ImageTooLargeError: its header claims too many pixels; nothing was decoded.
    """
    import pydicom

    try:
        file = pydicom.dcmread(path)
        rows, columns = int(file.get("Rows", 0)), int(file.get("Columns", 0))
        frames = int(file.get("NumberOfFrames") or 1)
    except Exception as error:
        raise _unreadable(path, error) from error
    if frames != 1:
        raise ImageDecodeError(f"{path} has {frames} frames, expected 1: export the one to explain")
    if rows * columns > MAX_PIXELS:
        raise ImageTooLargeError(
            f"{path} claims {columns} x {rows} pixels, the limit is {MAX_PIXELS:,}: shrink it"
        )
    try:
        # pydicom and its decoders raise errors of all kinds on damaged files.
        return _rgb(file)
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ImageDecodeError:
    return ImageDecodeError(
        f"cannot read {path} as a DICOM image ({error}): export it again, or convert it to PNG"
    )


def _rgb(file: Dataset) -> NDArray[np.uint8]:
    pixels = file.pixel_array  # [H, W] or [H, W, 3]
    kind = file.PhotometricInterpretation
    if pixels.ndim == 3 and pixels.dtype == np.uint8:
        return pixels
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"its pixels are {pixels.dtype} of kind {kind}")
    shares = _shown(file, pixels)  # [H, W] in 0..1
    if kind == "MONOCHROME1":
        shares = 1 - shares
    grey = np.rint(255 * shares).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _shown(file: Dataset, pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return brightness in 0..1, before MONOCHROME1 is inverted."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    values = apply_modality_lut(pixels, file)
    if file.get("VOILUTSequence"):
        values = apply_voi_lut(np.rint(values).astype(np.int64), file)
        low, high = 0.0, float(2 ** file.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif file.get("WindowCenter") is not None and file.get("WindowWidth") is not None:
        values = apply_voi_lut(values, file)
        # The range into which a window maps depends on much of the header: ask for values far
        # outside the window, where it ends.
        centre, width = (
            float(np.ravel(file[tag].value)[0]) for tag in ("WindowCenter", "WindowWidth")
        )
        low, high = apply_voi_lut(centre + 10 * width * np.array([-1.0, 1.0]), file)
    else:
        low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low if high != low else 1.0)
    return np.asarray(shares.clip(0, 1), dtype=np.float64)
