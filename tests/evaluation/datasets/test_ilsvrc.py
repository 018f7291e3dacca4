"""The layout of ImageNet's localisation task."""

from __future__ import annotations

from pathlib import Path

import pytest

from klieg.errors import InputError
from klieg.evaluation.datasets import IlsvrcDataset

IMAGES, ANNOTATIONS = "Data/CLS-LOC/val", "Annotations/CLS-LOC/val"


def xml(*boxes: tuple[int, int, int, int]) -> str:
    entries = "".join(
        "<object><name>n01751748</name><difficult>0</difficult><bndbox><xmin>{}</xmin>"
        "<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>".format(*box)
        for box in boxes
    )
    return f"<annotation>{entries}</annotation>"


def test_boxes_problems_and_order(tmp_path: Path, save, photo) -> None:
    for number in (3, 1, 2):
        # OpenCV does not write the suffix .JPEG in capitals everywhere.
        path = save(tmp_path / f"{IMAGES}/v_{number}.jpg", photo)
        path.rename(path.with_suffix(".JPEG"))
    (tmp_path / ANNOTATIONS).mkdir(parents=True)
    (tmp_path / ANNOTATIONS / "v_1.xml").write_text(xml((0, 0, 7, 4), (2, 1, 2, 3)))
    (tmp_path / ANNOTATIONS / "v_2.xml").write_text("<annotation>")
    (tmp_path / ANNOTATIONS / "v_4.xml").write_text(xml((0, 0, 1, 1)))
    data = IlsvrcDataset(tmp_path)
    assert [data.name(i) for i in range(len(data))] == [f"{IMAGES}/v_1.JPEG"]
    assert [(one.kind, one.where) for one in data.problems] == [
        ("unreadable annotation", f"{IMAGES}/v_2.JPEG"),
        ("image without annotation", f"{IMAGES}/v_3.JPEG"),
        ("annotation without image", f"{IMAGES}/v_4.JPEG"),
    ]
    one = data[0]
    (snake,) = one.regions
    assert snake.category == "n01751748"
    assert snake.boxes.tolist() == [[0, 0, 8, 5], [2, 1, 3, 4]]
    assert one.problems == ()  # the first box ends exactly at the border


def test_what_is_no_data_set(tmp_path: Path, save, photo) -> None:
    with pytest.raises(InputError, match="is no folder"):
        IlsvrcDataset(tmp_path)
    save(tmp_path / f"{IMAGES}/v_1.jpg", photo)
    with pytest.raises(InputError, match="1 images, 0 annotations, 1 problems"):
        IlsvrcDataset(tmp_path)
