from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.toy_training import write_photo
from klieg.errors import DataError
from klieg.training.data.photos import Photos, find_photos
from klieg.training.settings.options import DataOptions

PIXELS = np.zeros((4, 4, 3), np.uint8)


def folders(root: Path, *names: str, each: int = 2) -> Path:
    for name in names:
        for number in range(each):
            write_photo(root / name / f"{number}.png", PIXELS)
    return root


def found(path: Path, *, seed: int = 0, of: int = 5, **options: Any) -> Photos:
    return find_photos(DataOptions(path=str(path), **options), classes=of, seed=seed)


def labels(photos: Photos) -> dict[str, int]:
    """Return the label of each folder."""
    return {photo.path.parent.name: photo.label for photo in photos.training}


def table(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "photos.csv"
    path.write_text(text)
    return path


def test_folders_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    root = folders(tmp_path, "cat", "ant", "bee")
    write_photo(root / "bee" / "deeper" / "x.jpg", PIXELS)
    (root / "bee" / "notes.txt").write_text("no photo")
    (root / "readme.txt").write_text("no folder")
    photos = found(root, of=3)
    assert labels(photos) == {"ant": 0, "bee": 1, "deeper": 1, "cat": 2}
    assert len(photos.training) == 7
    assert photos.held_out == ()


def test_numbers_as_names_are_labels(tmp_path: Path) -> None:
    assert labels(found(folders(tmp_path, "3", "0", "001"))) == {"0": 0, "001": 1, "3": 3}
    (tmp_path / "other").mkdir()
    write_photo(tmp_path / "other" / "0.png", PIXELS)
    assert labels(found(tmp_path, of=4)) == {"0": 0, "001": 1, "3": 2, "other": 3}


def test_imagenet(tmp_path: Path) -> None:
    folders(tmp_path / "val", "n3")
    folders(tmp_path / "train", "n1", "n2")
    assert labels(found(tmp_path, of=2, layout="imagenet")) == {"n1": 0, "n2": 1}


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("columns", ["file,class_index", "label,path", "x,image,class"])
def test_tables(tmp_path: Path, columns: str, images: bool) -> None:
    folders(tmp_path / "images" if images else tmp_path, "a")
    row = {"file": "a/0.png", "path": "a/0.png", "image": "a/0.png", "x": "y"}
    line = ",".join(row.get(name, "4") for name in columns.split(","))
    photos = found(table(tmp_path, f"{columns}\n{line}\n{line}\n"), layout="csv")
    assert labels(photos) == {"a": 4}
    assert len(photos.training) == 2


def test_few_shots_depend_on_the_seed_alone(tmp_path: Path) -> None:
    root = folders(tmp_path, "a", "b", "c", "d", each=6)
    options = {"classes": 3, "per_class": 2, "of": 4}
    drawn = found(root, **options)
    assert found(root, **options) == drawn
    assert sorted(Counter(photo.label for photo in drawn.training).values()) == [2, 2, 2]
    others = {found(root, seed=seed, **options).training for seed in range(1, 9)}
    assert len(others) == 8
    assert {frozenset(p.label for p in other) for other in others} == {
        frozenset(set(range(4)) - {left_out}) for left_out in range(4)
    }


def test_held_out_photos_are_not_trained_on(tmp_path: Path) -> None:
    root = folders(tmp_path, "a", "b", each=10)
    photos = found(root, of=2, held_out=0.3)
    assert len(photos.held_out) == 6
    assert len({*photos.held_out, *photos.training}) == 20
    assert photos == found(root, of=2, held_out=0.3)
    assert photos.held_out != found(root, of=2, held_out=0.3, seed=1).held_out


def test_predicted_labels_need_none(tmp_path: Path) -> None:
    flat = folders(tmp_path / "flat", ".", each=3)
    assert len(found(flat, labels="predicted").training) == 3
    with pytest.raises(DataError, match="names no photos"):
        found(flat)
    listed = table(flat, "file\n0.png\n1.png\n")
    assert len(found(listed, layout="csv", labels="predicted").training) == 2
    many = folders(tmp_path / "many", *map(str, range(7)))
    assert len(found(many, labels="predicted").training) == 14


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.* does not exist"):
        found(tmp_path / "nowhere")
    with pytest.raises(DataError, match="names no photos"):
        found(tmp_path)
    with pytest.raises(DataError, match=r"train is no folder"):
        found(tmp_path, layout="imagenet")
    folders(tmp_path, "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"class folder .*empty holds no photos"):
        found(tmp_path)


def test_too_few(tmp_path: Path) -> None:
    root = folders(tmp_path, "a", "b")
    with pytest.raises(DataError, match=r"data.classes is 3, but there are 2"):
        found(root, of=2, classes=3)
    with pytest.raises(DataError, match=r"data.per_class is 3, but class 0 has 2 photos"):
        found(root, of=2, per_class=3)
    with pytest.raises(DataError, match="1 photos are left to train on"):
        found(root, of=2, held_out=0.75)


def test_named_folders_of_some_classes_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 2 class folders, .* 5 classes: give each folder"):
        found(folders(tmp_path, "cat", "dog"))


def test_labels_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"7.0\.png has the label 7, .* expected 0\.\.4"):
        found(folders(tmp_path, "1", "7"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,size\na/0.png,3\n", r"columns \['file', 'size'\], expected `file`"),
        ("", r"columns \[\]"),
        ("file,label\na/0.png,1\na/0.png,cat\n", r"line 3: label is 'cat', expected a number"),
        ("file,label\na/0.png,-1\n", r"line 2: label is '-1'"),
        ("file,label\na/0.png,1.0\n", r"line 2: label is '1.0'"),
        ("file,label\na/0.png,²\n", r"line 2: label is '²'"),
        ("file,label\na/0.png\n", r"line 2: label is ''"),
        ("label,file\n1\n", r"line 2: there is no file"),
        ("file,label\na/9.png,1\n", r"line 2: there is no file .*9\.png"),
        ("file,label\na/0.png,5\n", r"0\.png has the label 5"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    folders(tmp_path, "a")
    with pytest.raises(DataError, match=message):
        found(table(tmp_path, text), layout="csv")


def test_unreadable_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        found(tmp_path, layout="csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match=r"binary\.csv"):
        found(tmp_path / "binary.csv", layout="csv")
