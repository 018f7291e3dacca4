"""The picture formats that are read: a row each."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import ImageDecodeError
from klieg.extensions import extension, extension_names
from klieg.images.decoding import read_bmp, read_jpeg, read_png


@dataclass(frozen=True)
class PictureFormat:
    """A kind of picture file."""

    name: str
    suffixes: tuple[str, ...]
    """In lower case; how a folder's pictures are found."""
    start: bytes
    """What the content of such a file begins with; empty if only the suffix tells."""
    read: Callable[[str, bytes], NDArray[np.uint8]]
    """(name for messages, content) -> photo [H, W, 3] uint8 RGB.

    Raises ImageError if the content is damaged, cut short or too large.
    """


FORMATS: Final = (
    PictureFormat("JPEG", (".jpg", ".jpeg"), b"\xff\xd8\xff", read_jpeg),
    PictureFormat("PNG", (".png",), b"\x89PNG\r\n\x1a\n", read_png),
    PictureFormat("BMP", (".bmp",), b"BM", read_bmp),
)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:  # [H, W, 3] uint8 RGB
    """Decode a picture file in one of `FORMATS`, or in one that an installed package adds.

    Returns:
        [H, W, 3] uint8 RGB. The EXIF orientation is applied. Grey, palette, CMYK and 16-bit files
        become 8-bit RGB, and an alpha channel is dropped.

    Raises:
        ImageDecodeError: The file cannot be read, has another format, is damaged or cut short.
        ImageTooLargeError: Its header claims too many pixels; nothing was decoded.
    """
    data = _content(path)
    for form in FORMATS:
        if data.startswith(form.start):
            return form.read(str(path), data)
    added: Any = extension("klieg.pictures", Path(path).suffix.lower())
    if added is not None and data.startswith(added.start):
        return np.asarray(added.read(str(path), data))
    start = f"it starts with the bytes {data[:8].hex(' ')}" if data else "it is empty"
    raise ImageDecodeError(
        f"{path} is no {known_formats()} file ({start}): decode it yourself and pass an array "
        "[height, width, 3] of RGB values 0..255"
    )


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of picture files, in lower case, those of installed packages included."""
    known = [suffix for form in FORMATS for suffix in form.suffixes]
    return (*known, *map(str.lower, extension_names("klieg.pictures")))


def known_formats() -> str:
    """Return the names of the formats, for a message."""
    *first, last = (form.name for form in FORMATS)
    return f"{', '.join(first)} or {last}"


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageDecodeError(
            f"cannot read {path}: {error.strerror or error}; expected a {known_formats()} file"
        ) from error
    except ValueError as error:  # a null character in the path
        raise ImageDecodeError(f"cannot read {str(path)!r}: {error}; check the path") from error
