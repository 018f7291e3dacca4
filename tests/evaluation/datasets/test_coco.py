"""COCO's JSON file: boxes, polygons and runs, against plain loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.evaluation.datasets import CocoDataset
from klieg.evaluation.datasets.coco_masks import decode_mask

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]
SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]


def runs(mask: np.ndarray) -> list[int]:
    """Count down the columns, the first run being background."""
    counts, last = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != last:
                counts.append(0)
                last = bool(mask[y, x])
            counts[-1] += 1
    return counts


def compressed(counts: list[int]) -> str:
    """Write each run, from the fourth on as the difference to the last but one, in 5 bits each."""
    text = ""
    for number, count in enumerate(counts):
        left = count - counts[number - 2] if number > 2 else count
        more = True
        while more:
            bits, left = left & 31, left >> 5
            more = left != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def entry(number: int, image: Any, segmentation: Any, **fields: Any) -> dict[str, Any]:
    known = {"id": number, "image_id": image, "segmentation": segmentation}
    return {**known, "category_id": 7, "bbox": [6, 1, 2, 3], "iscrowd": 0, **fields}


def write(folder: Path, entries: list[dict[str, Any]], stems: str = "ab", **fields: Any) -> Path:
    listed = [
        {"id": 10 + i, "file_name": f"{name}.png", "height": 5, "width": 8}
        for i, name in enumerate(stems)
    ]
    content = {"images": listed, "annotations": entries, "categories": CATEGORIES, **fields}
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_random_runs_equal_plain_decoding() -> None:
    rng = np.random.default_rng(0)
    shares = (0, 1, 0.5, 0.1, 0.9)
    for share, (height, width) in zip(
        shares * 4, [(1, 1), (5, 8), (40, 3), (1, 9), (70, 90)] * 4, strict=True
    ):
        mask = rng.random((height, width)) < share
        counts = runs(mask)
        for form in (counts, compressed(counts)):
            segmentation = {"size": [height, width], "counts": form}
            decoded = decode_mask(segmentation, height=height, width=width)
            np.testing.assert_array_equal(decoded, mask)


def test_polygons() -> None:
    expected = np.zeros((5, 8), dtype=bool)
    expected[1:4, 2:6] = True
    decoded = decode_mask([SQUARE], height=5, width=8)
    np.testing.assert_array_equal(decoded, expected)
    expected[4, 0] = True  # of several parts; beyond the photo they are cut
    parts = [SQUARE, [-3, 4, 1, 4, 1, 9, -3, 9]]
    np.testing.assert_array_equal(decode_mask(parts, height=5, width=8), expected)
    assert decode_mask([], height=5, width=8) is None
    assert decode_mask(None, height=5, width=8) is None


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[2, 1, 6, 4]], "three points"),  # pycocotools would read a box
        ([[2, 1, 6, 4, 3, 3, 1]], "three points"),
        ([[2, 1, 6, 4, 3, float("nan")]], "three points"),
        ([[2, 1, 6, 4, 3, "4"]], "three points"),
        (SQUARE, "three points"),
        ({"size": [8, 5], "counts": [40]}, "expected that of the photo"),
        ({"counts": [40]}, "expected that of the photo"),
        ("40", "expected that of the photo"),
        ({"size": [5, 8], "counts": [39]}, "do not add up"),  # would leave pixels unset
        ({"size": [5, 8], "counts": [41]}, "do not add up"),
        ({"size": [5, 8], "counts": [-1, 41]}, "do not add up"),
        ({"size": [5, 8], "counts": [20.5, 19.5]}, "do not add up"),
        ({"size": [5, 8], "counts": compressed([20, 19])}, "do not give"),
        ({"size": [5, 8], "counts": compressed([20, 21])}, "do not give"),
        ({"size": [5, 8], "counts": "!?"}, "do not give"),
        ({"size": [5, 8]}, "do not give"),
    ],
)
def test_malformed_segmentations(segmentation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_mask(segmentation, height=5, width=8)


def test_regions_and_crowds(tmp_path: Path, save, photo) -> None:
    save(tmp_path / "val/a.png", photo)
    save(tmp_path / "val/b.png", photo)
    crowd = np.zeros((5, 8), dtype=bool)
    crowd[:3] = True
    path = write(
        tmp_path,
        [
            entry(1, 11, [SQUARE], category_id=90, bbox=[2.0, 1.0, 4.5, 3]),
            entry(2, 11, {"size": [5, 8], "counts": runs(crowd)}, iscrowd=1),
            entry(3, 10, [SQUARE]),
            entry(4, 10, [[0, 0, 1, 0, 1, 5, 0, 5]], bbox=[0, 0, 1, 5]),
            entry(5, 10, [], category_id=90),
        ],
    )
    data = CocoDataset(tmp_path / "val", path)
    assert data.problems == ()
    assert [data.name(0), data.name(1)] == ["a.png", "b.png"]
    cat, dog = data[0].regions
    assert cat.boxes.tolist() == [[6, 1, 8, 4], [0, 0, 1, 5]]
    expected = np.zeros((5, 8), dtype=bool)
    expected[1:4, 2:6] = expected[:, 0] = True
    np.testing.assert_array_equal(cat.mask, expected)
    assert dog.mask is None  # boxes are all that is known
    assert data[0].ignore is None
    (dog,) = data[1].regions
    assert (dog.category, dog.boxes.tolist()) == ("dog", [[2, 1, 6.5, 4]])
    # Where the dog stands its pixels count, crowd or not.
    np.testing.assert_array_equal(data[1].ignore, crowd & ~dog.mask)


def test_problems(tmp_path: Path, save, photo) -> None:
    for name in "abdef":
        save(tmp_path / f"val/{name}.png", photo)
    path = write(
        tmp_path,
        [
            entry(1, 10, [[1, 2]]),
            entry(2, 10, [SQUARE]),
            entry(3, 10, [], iscrowd=1),
            entry(4, 11, [SQUARE], bbox=[1, 1, 4]),
            entry(5, 11, [SQUARE]),
            entry(6, 12, [SQUARE]),
            entry(7, 13, [SQUARE], category_id=1),
            entry(8, 99, [SQUARE]),
            entry(9, [10], [SQUARE]),
            entry(10, 15, [SQUARE], bbox=[1, 1, -1, 4]),
        ],
        stems="abcdef",
    )
    data = CocoDataset(tmp_path / "val", path)
    assert [data.name(i) for i in range(len(data))] == ["a.png"]
    assert [(one.kind, one.where) for one in data.problems] == [
        ("unreadable annotation", "b.png"),
        ("unreadable annotation", "d.png"),
        ("annotation without image", "annotation 8"),
        ("annotation without image", "annotation 9"),
        ("unreadable annotation", "f.png"),
        ("annotation without image", "c.png"),
        ("image without annotation", "e.png"),
    ]
    one = data[0]
    assert [problem.detail[:12] for problem in one.problems] == ["annotation 1", "annotation 3"]
    (cat,) = one.regions
    assert len(cat.boxes) == 2
    assert cat.mask is None  # incomplete: one of its two objects cannot be decoded
    assert one.ignore is None


def test_what_is_no_data_set(tmp_path: Path, save, photo) -> None:
    save(tmp_path / "val/a.png", photo)
    path = write(tmp_path, [])
    with pytest.raises(InputError, match="1 images, 2 annotations, 2 problems"):
        CocoDataset(tmp_path / "val", path)
    for field, value, message in (
        ("images", None, "no list `images`"),
        ("annotations", [1], "no list `annotations`"),
        ("categories", [{"id": 1}], "expected an id and a name"),
        ("images", [{"id": 1, "file_name": "a.png", "height": 5}], "a height and a width"),
        ("images", [{"file_name": "a.png", "height": 5, "width": 8}], "expected an id"),
    ):
        write(tmp_path, [entry(1, 10, [SQUARE])], **{field: value})
        with pytest.raises(InputError, match=message):
            CocoDataset(tmp_path / "val", path)
    path.write_text("{")
    with pytest.raises(InputError, match="as JSON"):
        CocoDataset(tmp_path / "val", path)
