"""PASCAL VOC, and ILSVRC's use of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.evaluation.datasets import VocDataset

PART = "<part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>"


def xml(*objects: tuple[str, tuple[object, ...], str]) -> str:
    entries = "".join(
        f"<object><name>{name}</name>{difficult}{PART}<bndbox><xmax>{box[2]}</xmax>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in objects
    )
    return f"<annotation><size><width>8</width></size>{entries}</annotation>"


@pytest.fixture
def edition(tmp_path: Path, save, photo) -> Path:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for name in ("000002", "000001", "000007"):
        save(tmp_path / f"JPEGImages/{name}.jpg", photo)
    hard = "<difficult>1</difficult>"
    (tmp_path / "Annotations/000001.xml").write_text(
        xml(
            ("cat", (1, 1, 8, 5), "<difficult>0</difficult>"),
            ("dog", (2, 3, 4, 5), hard),
            ("cat", (3, 3, 3, 3), hard),
        )
    )
    (tmp_path / "Annotations/000002.xml").write_text(xml(("cow", (1, 1, 1, 1), "")))
    (tmp_path / "ImageSets/Main/test.txt").write_text("000002\r\n000001\r\n")
    return tmp_path


def test_boxes_from_zero_with_exclusive_ends(edition: Path) -> None:
    data = VocDataset(edition)
    assert [data.name(i) for i in range(len(data))] == [
        "JPEGImages/000001.jpg",
        "JPEGImages/000002.jpg",
    ]
    assert data.problems == ()  # 000007 belongs to another split
    one = data[0]
    cat, dog = one.regions
    # A pixel is inside exactly if VOC's own numbers, from 1 and with both ends, enclose it.
    for region, ends in ((cat, (1, 1, 8, 5)), (dog, (2, 3, 4, 5))):
        left, top, right, bottom = region.boxes[0]
        for y in range(5):
            for x in range(8):
                inside = ends[0] <= x + 1 <= ends[2] and ends[1] <= y + 1 <= ends[3]
                assert (left <= x < right and top <= y < bottom) == inside
    assert cat.boxes[1].tolist() == [2, 2, 3, 3]
    assert cat.difficult.tolist() == [False, True]
    assert dog.difficult.tolist() == [True]
    assert cat.mask is None
    assert one.problems == ()  # the first box ends exactly at the border
    assert data[1].regions[0].category == "cow"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("<annotation><object>", "as XML"),
        ("", "as XML"),
        (xml(("cat", ("a", 1, 2, 2), "")), "object 1: xmin is 'a'"),
        (xml(("cat", (1, 1, 2, 2), ""), ("cat", (5, 1, 2, 2), "")), "object 2: got the box"),
        (xml(("cat", (1, 1, 2, 2), "<difficult>maybe</difficult>")), "difficult is 'maybe'"),
        (xml(("", (1, 1, 2, 2), "")), "it has no name"),
        ("<annotation><object><name>cat</name></object></annotation>", "xmin is None"),
    ],
)
def test_a_broken_file_costs_its_photo_only(edition: Path, broken: str, message: str) -> None:
    (edition / "Annotations/000001.xml").write_text(broken)
    data = VocDataset(edition)
    assert len(data) == 1
    (problem,) = data.problems
    assert (problem.kind, problem.where) == ("unreadable annotation", "JPEGImages/000001.jpg")
    assert message in problem.detail


def test_images_and_annotations_without_each_other(edition: Path) -> None:
    (edition / "ImageSets/Main/test.txt").write_text("000001\n000002\n000003\n000007\n")
    (edition / "JPEGImages/000001.jpg").unlink()
    data = VocDataset(edition)
    assert [(one.kind, one.where[11:17]) for one in data.problems] == [
        ("annotation without image", "000001"),
        ("annotation without image", "000003"),
        ("image without annotation", "000007"),
    ]
    (edition / "Annotations/000007.xml").write_text(xml())  # no objects: the same
    assert VocDataset(edition).problems == data.problems


def test_what_is_no_data_set(edition: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*val\.txt"):
        VocDataset(edition, "val")
    (edition / "ImageSets/Main/cat_test.txt").write_text("000001 -1\n")
    with pytest.raises(InputError, match="line 1: got '000001 -1'"):
        VocDataset(edition, "cat_test")
    (edition / "ImageSets/Main/none.txt").write_text("000007\n")
    with pytest.raises(InputError, match="1 images, 1 annotations, 1 problems"):
        VocDataset(edition, "none")


def test_photos_are_read_one_by_one(edition: Path, photo: np.ndarray) -> None:
    data = VocDataset(edition)
    (edition / "JPEGImages/000002.jpg").write_bytes(b"no photo")  # not looked at so far
    assert data[0].photo.shape == photo.shape
