"""The plain layout, with masks, with boxes, and with everything that can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klieg.errors import ImageError, InputError
from klieg.evaluation.datasets import FolderDataset

INSTANCES = "file,instance,category,xmin,ymin,xmax,ymax,area\n"
BOXES = "file,name,xmin,ymin,xmax,ymax\n"
LABELS = np.array(  # [5, 8] three objects
    [
        [0, 0, 0, 0, 0, 0, 0, 3],
        [0, 1, 1, 0, 0, 0, 0, 3],
        [0, 1, 0, 0, 2, 2, 0, 0],
        [0, 0, 0, 0, 2, 2, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
    ]
)


def kinds(problems) -> list[tuple[str, str]]:
    return [(one.kind, one.where) for one in problems]


@pytest.mark.parametrize(("kind", "factor"), [(np.uint8, 1), (np.uint16, 300)])
def test_masks_and_boxes_by_category(tmp_path: Path, save, photo, kind: type, factor: int) -> None:
    save(tmp_path / "images/sub/b.png", photo)
    save(tmp_path / "images/a.png", photo)
    for stem in ("a", "sub/b"):
        save(tmp_path / f"masks/{stem}.png", (LABELS * factor).astype(kind))
    rows = [
        f"{file},{number * factor},{category},{box},0.1"
        for file in ("sub/b.png", "a.png")
        for number, category, box in (
            (1, "cat", "0,1.5,3,5"),
            (2, "dog", "4,2,6,4"),
            (3, "cat", "7,0,8,2"),
        )
    ]
    (tmp_path / "instances.csv").write_text("\ufeff" + INSTANCES + "\n".join(rows))
    # The masks win over this table.
    (tmp_path / "boxes.csv").write_text(BOXES + "a.png,fox,0,0,1,1\n")
    data = FolderDataset(tmp_path)
    assert len(data) == 2
    assert [data.name(0), data.name(1)] == ["images/a.png", "images/sub/b.png"]
    assert data.problems == ()
    for one in data:
        assert one.problems == ()
        np.testing.assert_array_equal(one.photo, photo)
        cat, dog = one.regions
        assert (cat.category, dog.category) == ("cat", "dog")
        assert cat.boxes.tolist() == [[0, 1.5, 3, 5], [7, 0, 8, 2]]
        assert not cat.difficult.any()
        np.testing.assert_array_equal(cat.mask, (LABELS == 1) | (LABELS == 3))
        np.testing.assert_array_equal(dog.mask, LABELS == 2)
        assert one.ignore is None


def test_boxes_are_derived_from_masks(tmp_path: Path, save, photo) -> None:
    save(tmp_path / "images/a.png", photo)
    save(tmp_path / "masks/a.png", LABELS.astype(np.uint8))
    table = "file,instance,category\na.png,1,cat\na.png,2,dog\na.png,3,cat\n"
    (tmp_path / "instances.csv").write_text(table)
    cat, dog = FolderDataset(tmp_path)[0].regions
    assert cat.boxes.tolist() == [[0, 1, 3, 5], [7, 0, 8, 2]]  # round all pixels of an object
    assert dog.boxes.tolist() == [[4, 2, 6, 4]]


def test_boxes_only(tmp_path: Path, save, photo) -> None:
    save(tmp_path / "images/a.png", photo)
    rows = "a.png,dog,0,0,8,5\na.png,cat,1,1,2.5,9\na.png,dog,9,9,12,12\na.png,cat,1,1,2,2\n"
    (tmp_path / "boxes.csv").write_text(BOXES + rows)
    one = FolderDataset(tmp_path)[0]
    dog, cat = one.regions
    assert dog.boxes.tolist() == [[0, 0, 8, 5]]
    assert cat.boxes.tolist() == [[1, 1, 2.5, 9], [1, 1, 2, 2]]
    assert dog.mask is None
    assert [p.kind for p in one.problems] == ["box outside the picture", "box beyond the picture"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b.png,dog,0,0,x,4", "line 3: xmax is 'x'"),
        ("b.png,dog,0,0,nan,4", "line 3: xmax is 'nan'"),
        ("b.png,dog,0,0,4", "line 3: ymax is None"),
        ("b.png,dog,4,0,3,4", "line 3: got the box 4, 0, 3, 4"),
        ("b.png,,0,0,3,4", "line 3: name is empty"),
    ],
)
def test_a_wrong_row_costs_its_photo_only(
    tmp_path: Path, save, photo, row: str, message: str
) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.png", photo)
    rows = f"a.png,dog,0,0,1,1\n{row}\nb.png,dog,0,0,1,1\n"
    (tmp_path / "boxes.csv").write_text(BOXES + rows)
    data = FolderDataset(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["images/a.png"]
    assert kinds(data.problems) == [("unreadable annotation", "images/b.png")]
    assert message in data.problems[0].detail


@pytest.mark.parametrize("instance", ["", "0", "-1", "1.5", "x"])
def test_wrong_instances(tmp_path: Path, save, photo, instance: str) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.png", photo)
        save(tmp_path / f"masks/{name}.png", LABELS.astype(np.uint8))
    rows = f"a.png,1,dog,0,0,1,1\nb.png,{instance},dog,0,0,1,1\n"
    (tmp_path / "instances.csv").write_text(INSTANCES + rows)
    data = FolderDataset(tmp_path)
    assert len(data) == 1
    assert kinds(data.problems) == [("unreadable annotation", "images/b.png")]


def test_images_and_annotations_without_each_other(tmp_path: Path, save, photo) -> None:
    for name in ("a", "c"):
        save(tmp_path / f"images/{name}.png", photo)
    (tmp_path / "boxes.csv").write_text(BOXES + "a.png,dog,0,0,1,1\nb.png,dog,0,0,1,1\n")
    assert kinds(FolderDataset(tmp_path).problems) == [
        ("annotation without image", "images/b.png"),
        ("image without annotation", "images/c.png"),
    ]


def test_masks_that_cannot_be_used(tmp_path: Path, save, photo) -> None:
    small, cut = LABELS[:4].astype(np.uint8), save(tmp_path / "cut.png", LABELS.astype(np.uint8))
    for name in "abcdef":
        save(tmp_path / f"images/{name}.png", photo)
    save(tmp_path / "masks/b.png", small)
    (tmp_path / "masks/c.png").write_bytes(cut.read_bytes()[:-25])
    save(tmp_path / "masks/d.png", photo)
    save(tmp_path / "masks/e.png", np.repeat(LABELS.astype(np.uint8)[..., None], 3, axis=2))
    save(tmp_path / "masks/f.png", LABELS.astype(np.uint8))
    rows = "".join(f"{name}.png,1,dog,0,0,1,1\n" for name in "abcde") + (
        "f.png,1,dog,0,0,1,1\nf.png,9,dog,0,0,2,2\nf.png,8,cat,0,0,2,2\n"
    )
    (tmp_path / "instances.csv").write_text(INSTANCES + rows)
    found = {one.name[7]: one for one in FolderDataset(tmp_path)}
    expected = {
        "a": ("unreadable annotation", "cannot read the mask"),
        "b": ("mask of another size", "8 x 4"),
        "c": ("unreadable annotation", "cannot decode the mask"),
        "d": ("unreadable annotation", "holds colours"),
    }
    for name, (kind, detail) in expected.items():
        (problem,) = found[name].problems
        assert problem.kind == kind
        assert detail in problem.detail
        assert found[name].regions[0].mask is None
        assert found[name].regions[0].boxes.tolist() == [[0, 0, 1, 1]]  # what is known stays
    # Grey stored as RGB is no colour.
    assert found["e"].problems == ()
    np.testing.assert_array_equal(found["e"].regions[0].mask, LABELS == 1)
    # An object without pixels, hidden by others, is listed; its box stays.
    dog, cat = found["f"].regions
    assert ["value 9" in one.detail for one in found["f"].problems] == [True, False]
    assert dog.boxes.tolist() == [[0, 0, 1, 1], [0, 0, 2, 2]]
    np.testing.assert_array_equal(dog.mask, LABELS == 1)
    assert cat.mask is None


def test_a_mask_of_another_size_tells_no_box(tmp_path: Path, save, photo) -> None:
    save(tmp_path / "images/a.png", photo)
    save(tmp_path / "masks/a.png", LABELS[:4].astype(np.uint8))
    (tmp_path / "instances.csv").write_text("file,instance,category\na.png,1,cat\n")
    one = FolderDataset(tmp_path)[0]
    assert one.regions == ()
    assert [p.kind for p in one.problems] == ["mask of another size"]


def test_a_broken_photo(tmp_path: Path, save, photo) -> None:
    path = save(tmp_path / "images/a.png", photo)
    path.write_bytes(path.read_bytes()[:60])
    (tmp_path / "boxes.csv").write_text(BOXES + "a.png,dog,0,0,1,1\n")
    with pytest.raises(ImageError):
        FolderDataset(tmp_path)[0]


def test_what_is_no_data_set(tmp_path: Path, save, photo) -> None:
    with pytest.raises(InputError, match=r"no instances\.csv and no boxes\.csv"):
        FolderDataset(tmp_path)
    (tmp_path / "boxes.csv").write_text("file,xmin,ymin,xmax,ymax\na.png,0,0,1,1\n")
    with pytest.raises(InputError, match=r"expected also \['name'\]"):
        FolderDataset(tmp_path)
    (tmp_path / "boxes.csv").write_text(BOXES + "a.png,dog,0,0,1,1\n,dog,0,0,1,1\n")
    with pytest.raises(InputError, match="line 3: file is empty"):
        FolderDataset(tmp_path)
    (tmp_path / "boxes.csv").write_text(BOXES + "a.png,dog,0,0,1,1\n")
    with pytest.raises(InputError, match="is no folder"):
        FolderDataset(tmp_path)
    save(tmp_path / "images/b.png", photo)
    with pytest.raises(InputError, match="1 images, 1 annotations, 2 problems, the first: annot"):
        FolderDataset(tmp_path)
    (tmp_path / "instances.csv").write_text(INSTANCES + "b.png,1,dog,0,0,1,1\n")
    with pytest.raises(InputError, match="no folder masks/"):
        FolderDataset(tmp_path)
    (tmp_path / "instances.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match="as a table"):
        FolderDataset(tmp_path)
