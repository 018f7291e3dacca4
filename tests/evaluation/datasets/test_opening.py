"""Each layout opens its own data set, and options that do not belong are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klieg.errors import OptionError
from klieg.evaluation.datasets import FolderDataset, open_dataset

XML = (
    "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax>"
    "<ymax>3</ymax></bndbox></object></annotation>"
)
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 5, "width": 8}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 3]}],
}


@pytest.mark.parametrize(
    ("layout", "image", "files", "options", "box"),
    [
        (
            "folder",
            "images/a.png",
            {"boxes.csv": "file,name,xmin,ymin,xmax,ymax\na.png,cat,0,0,3,3\n"},
            {},
            [0, 0, 3, 3],
        ),
        (
            "voc",
            "JPEGImages/a.jpg",
            {"ImageSets/Main/test.txt": "a", "Annotations/a.xml": XML},
            {},
            [0, 0, 3, 3],
        ),
        (
            "voc",
            "JPEGImages/a.jpg",
            {"ImageSets/Main/val.txt": "a", "Annotations/a.xml": XML},
            {"split": "val"},
            [0, 0, 3, 3],
        ),
        (
            "ilsvrc",
            "Data/CLS-LOC/val/a.jpg",
            {"Annotations/CLS-LOC/val/a.xml": XML},
            {},
            [1, 1, 4, 4],
        ),
        (
            "coco",
            "a.png",
            {"all.json": json.dumps(COCO)},
            {"annotations": "all.json"},
            [0, 0, 3, 3],
        ),
        (
            "wsol",
            "a.png",
            {
                "lists/val/image_ids.txt": "a.png",
                "lists/val/class_labels.txt": "a.png,3",
                "lists/val/localization.txt": "a.png,0,0,2,2",
            },
            {"annotations": "lists", "split": "val"},
            [0, 0, 3, 3],
        ),
    ],
)
def test_every_layout(
    tmp_path: Path, save, photo, layout: Any, image: str, files: dict, options: dict, box: list
) -> None:
    save(tmp_path / image, photo)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    paths = {
        name: value if name == "split" else tmp_path / value for name, value in options.items()
    }
    data = open_dataset(tmp_path, layout=layout, **paths)
    assert len(data) == 1
    assert data.name(0) == data[0].name == image
    assert data[0].photo.shape == (5, 8, 3)
    assert data[0].regions[0].boxes.tolist() == [box]
    assert data.problems == ()
    with pytest.raises(IndexError):
        data[1]


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("yolo", {}, "layout is 'yolo', expected one of folder, voc"),
        ("coco", {}, "needs annotations"),
        ("wsol", {}, "needs annotations"),
        ("folder", {"split": "test"}, "split is 'test', but the layout 'folder'"),
        ("voc", {"annotations": "a.json"}, "annotations is 'a.json'"),
        ("dicom", {"annotations": "m"}, "annotations is 'm'"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, layout: Any, options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_dataset(tmp_path, layout=layout, **options)


def test_names_are_sorted_whatever_the_table_says(tmp_path: Path, save) -> None:
    rng = np.random.default_rng(2)
    names = [f"{number:03d}.png" for number in range(30)]
    table = "file,name,xmin,ymin,xmax,ymax\n"
    for name in rng.permutation(names):
        save(tmp_path / "images" / name, np.zeros((2, 2, 3), dtype=np.uint8))
        table += f"{name},cat,0,0,1,1\n"
    (tmp_path / "boxes.csv").write_text(table)
    data = FolderDataset(tmp_path)
    assert [data.name(i) for i in range(len(data))] == [f"images/{name}" for name in names]
