"""JPEG, PNG and BMP by OpenCV, refused if damaged, cut short or absurdly large.

OpenCV decodes what it can: some versions fill the missing part of a truncated JPEG with grey and
say nothing, and a header may claim any size. So the file is scanned before it is decoded.
"""

import re
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from klieg.errors import ImageDecodeError, ImageTooLargeError

MAX_PIXELS = 64_000_000


def read_jpeg(name: str, data: bytes) -> NDArray[np.uint8]:  # [H, W, 3] RGB
    """Decode the content of a JPEG file."""
    return _decoded(name, data, _scan_jpeg(data))


def read_png(name: str, data: bytes) -> NDArray[np.uint8]:  # [H, W, 3] RGB
    """Decode the content of a PNG file."""
    return _decoded(name, data, _scan_png(data))


def read_bmp(name: str, data: bytes) -> NDArray[np.uint8]:  # [H, W, 3] RGB
    """Decode the content of a BMP file."""
    return _decoded(name, data, _scan_bmp(data))


class _Header(NamedTuple):
    """What the bytes of a file say before they are decoded."""

    width: int
    height: int
    complete: bool


def _decoded(name: str, data: bytes, header: _Header) -> NDArray[np.uint8]:  # [H, W, 3] RGB
    width, height, complete = header
    if width * height > MAX_PIXELS:
        raise ImageTooLargeError(
            f"{name} claims {width} x {height} = {width * height:,} pixels, the limit is "
            f"{MAX_PIXELS:,}: shrink the file, or decode it yourself and pass an array"
        )
    if not complete:
        raise ImageDecodeError(
            f"{name} is cut short: its {len(data):,} bytes end before the image does; "
            "copy or download the file again"
        )
    if width < 1 or height < 1:
        raise ImageDecodeError(
            f"the header of {name} claims {width} x {height} pixels, expected at least 1 x 1: "
            "the file is damaged, copy or export it again"
        )
    image, reason = None, "OpenCV gives no reason"
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        reason = str(error).strip()
    if image is None:
        raise ImageDecodeError(
            f"{name} cannot be decoded ({reason}): the file is damaged or of a rare kind; "
            "export it again, or decode it yourself and pass an array"
        )
    return np.asarray(image, dtype=np.uint8)


# A marker that matters: no escaped data byte (FF 00), no restart (FF D0..D7), no fill (FF FF).
# The same search steps over entropy coded data and over garbage between the segments.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_END = 0xD9
_JPEG_WITHOUT_LENGTH = frozenset({0x01, 0xD8})
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15


def _scan_jpeg(data: bytes) -> _Header:
    width = height = 0
    position = 2
    while marker := _JPEG_MARKER.search(data, position):
        position = marker.end()
        code = data[position - 1]
        if code == _JPEG_END:
            return _Header(width, height, complete=True)
        if code in _JPEG_FRAMES:
            height = _number(data[position + 3 : position + 5], "big")
            width = _number(data[position + 5 : position + 7], "big")
        if code not in _JPEG_WITHOUT_LENGTH:
            # Segments are stepped over whole: an EXIF thumbnail is a JPEG with an end of its own.
            position += _number(data[position : position + 2], "big")
    return _Header(width, height, complete=False)


def _scan_png(data: bytes) -> _Header:
    # Checksums and missing rows are left to OpenCV, which refuses both.
    width, height = _number(data[16:20], "big"), _number(data[20:24], "big")
    position = 8
    while (end := position + 12 + _number(data[position : position + 4], "big")) <= len(data):
        if data[position + 4 : position + 8] == b"IEND":
            return _Header(width, height, complete=True)
        position = end
    return _Header(width, height, complete=False)


def _scan_bmp(data: bytes) -> _Header:
    header = _number(data[14:18], "little")
    packed = False
    if header == 12:  # OS/2
        width, height = _number(data[18:20], "little"), _number(data[20:22], "little")
        bits = _number(data[24:26], "little")
    else:
        width = _number(data[18:22], "little", signed=True)
        height = abs(_number(data[22:26], "little", signed=True))  # negative: top row first
        bits = _number(data[28:30], "little")
        packed = _number(data[30:34], "little") in (1, 2)  # run lengths
    row = (width * bits + 31) // 32 * 4
    end = 14 + header
    if not packed:  # the size of packed rows is known only after decoding: left to OpenCV
        end = max(end, _number(data[10:14], "little") + row * height)
    return _Header(width, height, complete=end <= len(data))


def _number(field: bytes, order: Literal["big", "little"], *, signed: bool = False) -> int:
    """An integer field; one beyond the end of the file reads as 0."""
    return int.from_bytes(field, order, signed=signed)
