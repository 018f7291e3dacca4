"""DICOM files that the tests write themselves, against the standard's formulas in plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from klieg.errors import ImageError, ImageTooLargeError, InputError
from klieg.evaluation.datasets import DicomDataset
from klieg.evaluation.datasets.dicom_pixels import read_dicom

VALUES = np.arange(40, dtype=np.uint16).reshape(5, 8) * 100  # [5, 8]


def write(path: Path, values: np.ndarray = VALUES, **fields: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    bits = values.dtype.itemsize * 8
    file.Rows, file.Columns = values.shape[:2]
    file.SamplesPerPixel = 1 if values.ndim == 2 else 3
    file.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        file.PlanarConfiguration = 0
    file.BitsAllocated = bits
    file.BitsStored = fields.pop("BitsStored", bits)
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    file.PixelData = values.tobytes()
    for name, value in fields.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def windowed(value: float, centre: float, width: float, function: str) -> float:
    """Brightness in 0..1 as DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3 define it."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(-4 * (value - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if value <= centre - width / 2:
        return 0.0
    if value > centre + width / 2:
        return 1.0
    return (value - centre) / width + 0.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("stored", "slope", "intercept"),
    [
        (VALUES, None, None),
        (VALUES, 0.5, -300),
        (VALUES.astype(np.int16) - 2000, 1, -24),
        (VALUES, -1, 3000),
    ],
)
def test_windows(
    tmp_path: Path,
    function: str,
    kind: str,
    stored: np.ndarray,
    slope: float | None,
    intercept: float | None,
) -> None:
    fields: dict[str, Any] = {"VOILUTFunction": function, "PhotometricInterpretation": kind}
    if slope is not None:
        fields |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    # Two windows: the first one counts. The last one of the cases reaches none of its ends.
    for centre, width in ((900, 1000), (40, 400), (1000, 30000)):
        windows = {"WindowCenter": [centre, 7], "WindowWidth": [width, 9]}
        photo = read_dicom(write(tmp_path / "a.dcm", stored, **fields, **windows))
        assert photo.dtype == np.uint8
        for y in range(5):
            for x in range(8):
                value = float(stored[y, x]) * (slope or 1) + (intercept or 0)
                bright = windowed(value, centre, width, function)
                bright = 1 - bright if kind == "MONOCHROME1" else bright
                # The whole number next to it: off by one half, and a little for rounding before.
                assert abs(photo[y, x] - 255 * bright).max() <= 0.501


def test_without_a_window_the_extremes_are_black_and_white(tmp_path: Path) -> None:
    photo = read_dicom(write(tmp_path / "a.dcm", VALUES + 50, WindowCenter="", WindowWidth=""))
    expected = [[round(255 * (8 * y + x) / 39) for x in range(8)] for y in range(5)]
    np.testing.assert_array_equal(photo, np.repeat(np.array(expected)[..., None], 3, axis=2))
    flat = read_dicom(write(tmp_path / "b.dcm", np.full((5, 8), 7, dtype=np.uint8)))
    assert not flat.any()


@pytest.mark.parametrize("rescaled", [False, True])
def test_table_of_interest(tmp_path: Path, rescaled: bool) -> None:
    item = Dataset()
    item.LUTDescriptor = [3, 10, 10]  # three entries for 10, 11, 12; of 10 bits
    item.LUTData = np.array([0, 1023, 341], dtype="<u2").tobytes()
    fields: dict[str, Any] = {"VOILUTSequence": [item], "WindowCenter": 5, "WindowWidth": 9}
    values = np.array([[8, 10, 11, 12, 200]], dtype=np.uint8)
    if rescaled:
        fields |= {"RescaleSlope": 0.5, "RescaleIntercept": 0}
        values = np.array([[16, 20, 22, 24, 250]], dtype=np.uint8)
    photo = read_dicom(write(tmp_path / "a.dcm", values, **fields))
    assert photo[0, :, 1].tolist() == [0, 0, 255, 85, 85]


def test_colours_stay(tmp_path: Path, photo: np.ndarray) -> None:
    np.testing.assert_array_equal(read_dicom(write(tmp_path / "a.dcm", photo)), photo)


def test_what_is_no_photo(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ImageError, match="as a DICOM image"):
        read_dicom(path)
    path.write_bytes(b"no DICOM at all")
    with pytest.raises(ImageError, match="as a DICOM image"):
        read_dicom(path)
    with pytest.raises(ImageError, match="as a DICOM image"):
        read_dicom(tmp_path / "missing.dcm")
    with pytest.raises(ImageError, match="2 frames"):
        read_dicom(write(tmp_path / "b.dcm", NumberOfFrames=2))
    with pytest.raises(ImageTooLargeError):
        read_dicom(write(tmp_path / "c.dcm", Rows=60000, Columns=60000))
    with pytest.raises(ImageError, match="of kind PALETTE COLOR"):
        read_dicom(write(tmp_path / "d.dcm", PhotometricInterpretation="PALETTE COLOR"))
    with pytest.raises(ImageError, match="Window Width must be"):
        read_dicom(write(tmp_path / "e.dcm", WindowCenter=5, WindowWidth=0))


def test_masks_and_files(tmp_path: Path, save) -> None:
    mask = np.zeros((5, 8), dtype=np.uint8)
    mask[1, 2], mask[3, 5] = 1, 255
    write(tmp_path / "a.dcm")
    write(tmp_path / "case/1.2.840.1")  # found by its content
    write(tmp_path / "c.DCM")
    write(tmp_path / "DICOMDIR")
    (tmp_path / "notes.txt").write_text("not of the data set")
    for name in ("a", "case/1.2.840.1", "z"):
        save(tmp_path / f"masks/{name}.png", mask)
    data = DicomDataset(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["a.dcm", "case/1.2.840.1"]
    assert [(one.kind, one.where) for one in data.problems] == [
        ("image without annotation", "c.DCM"),
        ("annotation without image", "masks/z.png"),
    ]
    for one in data:
        (region,) = one.regions
        assert region.category == "object"
        assert region.boxes.tolist() == [[2, 1, 6, 4]]
        np.testing.assert_array_equal(region.mask, mask > 0)
        assert one.problems == ()


def test_categories(tmp_path: Path, save) -> None:
    for name in "abcd":
        write(tmp_path / f"{name}.dcm")
        if name != "d":
            save(tmp_path / f"masks/{name}.png", np.ones((5, 8), dtype=np.uint8))
    rows = "file,category\na.dcm,nodule\nb.dcm,\nd.dcm,nodule\ne.dcm,nodule\n"
    (tmp_path / "masks.csv").write_text(rows)
    data = DicomDataset(tmp_path)
    assert len(data) == 1
    assert data[0].regions[0].category == "nodule"
    assert sorted((one.where, one.kind) for one in data.problems) == [
        ("b.dcm", "unreadable annotation"),
        ("c.dcm", "unreadable annotation"),
        ("d.dcm", "image without annotation"),
        ("e.dcm", "annotation without image"),
    ]


def test_masks_that_cannot_be_used(tmp_path: Path, save) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.dcm")
    save(tmp_path / "masks/a.png", np.zeros((5, 8), dtype=np.uint8))
    save(tmp_path / "masks/b.png", np.ones((5, 7), dtype=np.uint8))
    (tmp_path / "masks/c.png").write_bytes(b"")
    for one, kind in zip(
        DicomDataset(tmp_path),
        ("unreadable annotation", "mask of another size", "unreadable annotation"),
        strict=True,
    ):
        assert one.regions == ()
        assert [problem.kind for problem in one.problems] == [kind]


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder masks/"):
        DicomDataset(tmp_path)
    (tmp_path / "masks").mkdir()
    write(tmp_path / "a.dcm")
    with pytest.raises(InputError, match="1 images, 0 annotations, 1 problems"):
        DicomDataset(tmp_path)
