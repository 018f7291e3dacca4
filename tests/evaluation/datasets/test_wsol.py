"""The layout of clovaai/wsolevaluation, with boxes and with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klieg.errors import InputError
from klieg.evaluation.datasets import WsolDataset


def lists(folder: Path, **texts: str) -> Path:
    (folder / "metadata/test").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"metadata/test/{name}.txt").write_text(text)
    return folder / "metadata"


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Take from each place the pixel at the same share of the way."""
    rows, columns = mask.shape
    return np.array(
        [
            [mask[y * rows // height, x * columns // width] for x in range(width)]
            for y in range(height)
        ]
    )


def test_boxes(tmp_path: Path, save, photo) -> None:
    for name in ("b/2.png", "a/1.png", "c/3.png"):
        save(tmp_path / name, photo)
    metadata = lists(
        tmp_path,
        image_ids="b/2.png\na/1.png\nc/3.png\nd/4.png\n",
        class_labels="b/2.png,17\na/1.png,0\nc/3.png,1\nd/4.png,1\n",
        localization="b/2.png,0,0,7,4\nb/2.png,2,1,2,1\na/1.png,1,1,3,2\nz.png,0,0,1,1\n"
        "d/4.png,0,0,1,1\n",
    )
    data = WsolDataset(tmp_path, metadata, "test")
    assert [data.name(i) for i in range(len(data))] == ["a/1.png", "b/2.png"]
    assert [(one.kind, one.where) for one in data.problems] == [
        ("annotation without image", "z.png"),
        ("image without annotation", "c/3.png"),
        ("annotation without image", "d/4.png"),
    ]
    (first,), (second,) = data[0].regions, data[1].regions
    assert (first.category, first.boxes.tolist()) == ("0", [[1, 1, 4, 3]])
    assert (second.category, second.boxes.tolist()) == ("17", [[0, 0, 8, 5], [2, 1, 3, 2]])
    assert data[1].problems == ()  # the box ends exactly at the border
    assert second.mask is None


def test_masks_take_the_size_of_the_photo(tmp_path: Path, save, photo) -> None:
    rng = np.random.default_rng(1)
    names = ("a", "b")
    first, second, ignore = (rng.random(size) < 0.4 for size in ((3, 5), (11, 17), (7, 4)))
    for name in names:
        save(tmp_path / f"{name}.png", photo)
        save(tmp_path / f"{name}_m1.png", first.astype(np.uint8) * 255)
        save(tmp_path / f"{name}_m2.png", second.astype(np.uint8))
    save(tmp_path / "a_ignore.png", ignore.astype(np.uint8) * 255)
    metadata = lists(
        tmp_path,
        image_ids="a.png\nb.png\n",
        class_labels="a.png,3\nb.png,4\n",
        localization="a.png,a_m1.png,a_ignore.png\na.png,a_m2.png,\nb.png,b_m1.png,\n",
    )
    data = WsolDataset(tmp_path, metadata, "test")
    one = data[0]
    (region,) = one.regions
    expected = nearest(first, 5, 8) | nearest(second, 5, 8)
    assert 0 < expected.sum() < 40
    np.testing.assert_array_equal(region.mask, expected)
    assert region.boxes.shape == (0, 4)
    np.testing.assert_array_equal(one.ignore, nearest(ignore, 5, 8) & ~expected)
    assert one.ignore.any()
    assert one.problems == ()
    assert data[1].ignore is None
    np.testing.assert_array_equal(data[1].regions[0].mask, nearest(first, 5, 8))


def test_a_missing_mask(tmp_path: Path, save, photo) -> None:
    save(tmp_path / "a.png", photo)
    save(tmp_path / "m.png", np.ones((5, 8), dtype=np.uint8))
    metadata = lists(
        tmp_path,
        image_ids="a.png\n",
        class_labels="a.png,3\n",
        localization="a.png,m.png,no.png\na.png,n.png,\n",
    )
    one = WsolDataset(tmp_path, metadata, "test")[0]
    assert [problem.kind for problem in one.problems] == ["unreadable annotation"] * 2
    assert one.regions == ()  # the union would be incomplete
    assert one.ignore is None


def test_what_is_unreadable(tmp_path: Path, save, photo) -> None:
    for name in "abcd":
        save(tmp_path / f"{name}.png", photo)
    metadata = lists(
        tmp_path,
        image_ids="a.png\nb.png\nc.png\n",
        class_labels="a.png,1\nb.png,2\n",
        localization="a.png,0,0,1,1\nb.png,0,0,x,1\nb.png,0,0,1,1\nc.png,0,0,1,1\n",
    )
    data = WsolDataset(tmp_path, metadata, "test")
    assert len(data) == 1
    assert [one.where for one in data.problems] == ["b.png", "c.png"]  # d is not in the split
    assert "line 2: x" in data.problems[0].detail
    assert "class_labels.txt has no class" in data.problems[1].detail
    lists(tmp_path, localization="a.png,0,0,1,1\na.png,m.png,\n")
    with pytest.raises(InputError, match=r"localization\.txt, line 2: got 3 fields"):
        WsolDataset(tmp_path, metadata, "test")
    lists(tmp_path, localization="a.png,,\n")
    with pytest.raises(InputError, match="3 images, 3 annotations, 3 problems"):
        WsolDataset(tmp_path, metadata, "test")
    with pytest.raises(InputError, match="cannot read"):
        WsolDataset(tmp_path, metadata, "val")
