import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klieg.errors import ImageDecodeError, ImageError, ImageTooLargeError
from klieg.images import decoding
from klieg.images.formats import read_image

PHOTO = cv2.resize(  # [41, 63, 3] uint8 RGB, odd and smooth
    np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8), (63, 41)
)


def encode(image: np.ndarray, kind: str, *options: int) -> bytes:
    rgb = image[..., [2, 1, 0]] if image.ndim == 3 and image.shape[2] == 3 else image
    return cv2.imencode(kind, np.ascontiguousarray(rgb), options)[1].tobytes()


JPEGS = {
    "baseline": encode(PHOTO, ".jpg"),
    "progressive": encode(PHOTO, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": encode(PHOTO, ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "grey": encode(PHOTO[..., 0], ".jpg"),
}
PNG = encode(PHOTO, ".png")
BMP = encode(PHOTO, ".bmp")
FILES = {**JPEGS, "png": PNG, "bmp": BMP}


def exif(orientation: int, thumbnail: bytes = b"") -> bytes:
    """An APP1 segment; the thumbnail is a JPEG of its own, with its own end marker."""
    tags = struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0II*\0\x08\0\0\0" + tags + thumbnail
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def bmp(header: bytes, pixels: bytes) -> bytes:
    start = 14 + 4 + len(header)
    intro = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    return intro + struct.pack("<I", 4 + len(header)) + header + pixels


@pytest.fixture
def read(tmp_path: Path):
    def read_bytes(data: bytes) -> np.ndarray:
        path = tmp_path / "photo"
        path.write_bytes(data)
        return read_image(path)

    return read_bytes


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if anything is decoded."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))


def assert_rgb(image: np.ndarray, expected: np.ndarray, tolerance: float = 0) -> None:
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    assert np.abs(image.astype(float) - expected).mean() <= tolerance


@pytest.mark.parametrize("data", [PNG, BMP], ids=["png", "bmp"])
def test_lossless_files_come_back_exactly_as_rgb(read, data):
    assert_rgb(read(data), PHOTO)


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts"])
def test_jpeg_comes_back_as_rgb(read, kind):
    assert_rgb(read(JPEGS[kind]), PHOTO, tolerance=4)


def test_path_may_be_a_string(tmp_path):
    (tmp_path / "photo.png").write_bytes(PNG)
    assert_rgb(read_image(str(tmp_path / "photo.png")), PHOTO)


@pytest.mark.parametrize("kind", [".png", ".bmp"])
def test_grey_becomes_three_equal_channels(read, kind):
    grey = PHOTO[..., 1]
    assert_rgb(read(encode(grey, kind)), np.stack([grey] * 3, axis=2))


def test_sixteen_bits_become_eight(read):
    deep = PHOTO.astype(np.uint16) * 256 + 99
    assert_rgb(read(encode(deep, ".png")), PHOTO)


def test_alpha_is_dropped(read):
    alpha = np.zeros((*PHOTO.shape[:2], 1), np.uint8)
    assert_rgb(read(encode(np.dstack([PHOTO[..., ::-1], alpha]), ".png")), PHOTO)


def test_palette_becomes_rgb(read):
    colours = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    image = read(png(2, 1, 3, b"\0\1\0", colours))
    assert image.tolist() == [[[200, 100, 50], [10, 20, 30]]]


def test_top_down_bmp(read):
    top_down = BMP[:22] + struct.pack("<i", -41) + BMP[26:]
    assert_rgb(read(top_down), PHOTO[::-1])


def test_smallest_os2_bmp(read):
    assert read(bmp(struct.pack("<HHHH", 1, 1, 1, 24), b"\3\2\1\0")).tolist() == [[[1, 2, 3]]]


def test_run_length_bmp_may_be_smaller_than_its_pixels(read):
    header = struct.pack("<iiHHIIiiII", 100, 1, 1, 8, 1, 0, 0, 0, 1, 0)
    data = bytearray(bmp(header + bytes([3, 2, 1, 0]), b"\x64\0\0\1"))
    data[14] = 40  # the palette is no part of the header
    assert read(bytes(data)).tolist() == [[[1, 2, 3]] * 100]


def test_exif_orientation_is_applied(read):
    turned = JPEGS["baseline"][:2] + exif(6) + JPEGS["baseline"][2:]
    assert_rgb(read(turned), np.rot90(PHOTO, -1), tolerance=4)


@pytest.mark.parametrize("kind", JPEGS)
def test_thumbnail_fill_bytes_and_trailing_bytes_do_not_confuse(read, kind):
    data = JPEGS[kind]
    filled = data.replace(b"\xff\xda", b"\xff\xff\xff\xda")
    busy = filled[:2] + exif(1, JPEGS["baseline"]) + filled[2:] + b"trailing"
    assert_rgb(read(busy), read(data))


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("kind", FILES)
def test_every_truncation_is_refused_before_decoding(read, kind):
    data = FILES[kind]
    for length in range(len(data)):
        with pytest.raises(ImageDecodeError):
            read(data[:length])


def test_truncation_after_a_thumbnail_is_seen(read):
    data = JPEGS["baseline"][:2] + exif(1, JPEGS["baseline"]) + JPEGS["baseline"][2:]
    with pytest.raises(ImageDecodeError, match="cut short"):
        read(data[:-2])


@pytest.mark.parametrize("index", range(-20, -12))
def test_damaged_png_is_refused(read, index):  # the last pixels and their checksum
    damaged = bytearray(PNG)
    damaged[index] ^= 1
    with pytest.raises(ImageDecodeError, match="cannot be decoded"):
        read(damaged)


def test_png_without_all_its_rows_is_refused(read):
    row = b"\0" + b"\x80" * 30
    assert read(png(10, 10, 2, row * 10)).shape == (10, 10, 3)
    with pytest.raises(ImageDecodeError, match="cannot be decoded"):
        read(png(10, 10, 2, row * 5))


def test_a_side_that_opencv_does_not_take_is_refused(read):
    long = 2**20 + 1
    with pytest.raises(ImageDecodeError, match="cannot be decoded"):
        read(png(long, 1, 0, bytes(1 + long)))


def claiming(width: int, height: int) -> dict[str, bytes]:
    frame = JPEGS["baseline"].index(b"\xff\xc0") + 5
    sizes = struct.pack(">HH", height, width)
    return {
        "jpeg": JPEGS["baseline"][:frame] + sizes + JPEGS["baseline"][frame + 4 :],
        "png": png(width, height, 2, b""),
        "bmp": BMP[:18] + struct.pack("<ii", width, height) + BMP[26:],
    }


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp"])
def test_too_many_pixels_are_refused_before_decoding(read, kind):
    with pytest.raises(ImageTooLargeError, match=r"8001 x 8000 .* 64,000,000"):
        read(claiming(8001, 8000)[kind])


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp"])
def test_as_many_pixels_as_allowed_are_decoded(read, kind, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 63 * 41)
    assert read({"jpeg": JPEGS["baseline"], "png": PNG, "bmp": BMP}[kind]).shape == PHOTO.shape


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp"])
def test_no_pixels_are_refused(read, kind, size):
    with pytest.raises(ImageDecodeError, match="at least 1 x 1"):
        read(claiming(*size)[kind])


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"GIF89a..", "47 49 46"), (b"RIFF", "52 49"), (b"\xff\xd8", "ff d8")],
)
def test_other_formats_are_refused(read, data, reason):
    with pytest.raises(ImageDecodeError, match=f"no JPEG, PNG or BMP.*{reason}.*pass an array"):
        read(data)


def test_unreadable_paths_are_refused(tmp_path):
    with pytest.raises(ImageDecodeError, match="No such file"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageDecodeError, match="directory"):
        read_image(tmp_path)
    with pytest.raises(ImageDecodeError, match="null"):
        read_image("photo\0.jpg")


@pytest.mark.parametrize("kind", FILES)
@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_give_an_image_or_an_image_error(read, kind, data):
    damaged = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    # Most files keep their tail, so that the damage reaches the decoder.
    length = data.draw(st.sampled_from([len(damaged)] * 4 + [len(damaged) // 2]))
    try:
        image = read(damaged[:length])
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
