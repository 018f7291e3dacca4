"""Questions about a photo, and its regions on the model's grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.toy_dataset import toy_dataset
from klieg.evaluation.datasets.annotated import AnnotatedPhoto, Region
from klieg.evaluation.questions import ask, boxes_on_grid, mask_on_grid
from klieg.images.fitting import fit_image

CLASSES = {"ant": (0,), "bee": (1, 3)}


def boxed(boxes: list[list[float]], *, category: str = "ant", difficult: bool = False) -> Region:
    return Region(
        category=category,
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        difficult=np.full(len(boxes), difficult),
    )


def photo(*regions: Region, height: int = 6, width: int = 9) -> AnnotatedPhoto:
    return AnnotatedPhoto(
        name="a.png", photo=np.zeros((height, width, 3), np.uint8), regions=regions
    )


def test_one_question_per_category_with_its_classes() -> None:
    both = toy_dataset(2)[1]
    questions, problems = ask(both, CLASSES.get, "labelled")
    assert [(one.category, one.classes, one.others) for one in questions] == [
        ("ant", (0,), True),
        ("bee", (1, 3), True),
    ]
    assert not problems
    for question, region in zip(questions, both.regions, strict=True):
        assert question.has_mask
        assert np.array_equal(question.objects, region.mask)


def test_an_unknown_category_is_listed() -> None:
    both = toy_dataset(2, categories=("ant", "unicorn"))[1]
    questions, problems = ask(both, CLASSES.get, "labelled")
    assert [one.category for one in questions] == ["ant"]
    assert questions[0].others  # the unicorn is there all the same
    assert [(one.kind, one.where, one.detail) for one in problems] == [
        ("unknown category", "photo-1.png", "unicorn")
    ]


def test_the_predicted_class_is_asked_about_all_objects() -> None:
    both = toy_dataset(2, categories=("ant", "unicorn"))[1]
    (question,), problems = ask(both, CLASSES.get, "predicted")
    assert (question.category, question.classes, question.others) == ("any", (0,), False)
    assert not problems
    union = both.regions[0].mask | both.regions[1].mask
    assert np.array_equal(question.objects, union)
    assert len(question.boxes) == 2


def test_difficult_objects_do_not_make_a_category_present() -> None:
    hidden = photo(boxed([[0, 0, 2, 2]], difficult=True))
    assert ask(hidden, CLASSES.get, "labelled") == ([], [])
    mixed = boxed([[0, 0, 2, 2], [3, 3, 5, 5]])
    mixed = replace(mixed, difficult=np.array([True, False]))
    (question,), _ = ask(photo(mixed), CLASSES.get, "labelled")
    assert question.objects[0, 0]  # once present, all its objects count
    assert question.objects[3, 3]


@pytest.mark.parametrize("box", [[0, 0, 9, 6], [1.4, 0.6, 3.6, 2.4], [-3, -1, 2, 3], [8, 5, 12, 9]])
def test_boxes_are_filled_where_there_is_no_mask(box: list[float]) -> None:
    (question,), _ = ask(photo(boxed([box])), CLASSES.get, "labelled")
    assert not question.has_mask
    for y in range(6):
        for x in range(9):
            inside = box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]
            assert question.objects[y, x] == inside


@pytest.mark.parametrize("box", [[3.6, 2, 4.4, 4], [-5, 0, 0.2, 0.3], [8.7, 5.6, 20, 9]])
def test_a_thin_box_still_marks_a_pixel(box: list[float]) -> None:
    (question,), _ = ask(photo(boxed([box])), CLASSES.get, "labelled")
    y, x = np.argwhere(question.objects)[0]
    assert x <= box[2]
    assert x + 1 >= box[0]
    assert y <= box[3]
    assert y + 1 >= box[1]


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.integers(1, 40),
    fit=st.sampled_from(["crop", "letterbox", "stretch"]),
)
def test_the_whole_photo_covers_what_the_model_sees(
    height: int, width: int, size: int, fit: str
) -> None:
    _, placement = fit_image(np.zeros((height, width, 3), np.uint8), size, fit)
    grid = mask_on_grid(np.ones((height, width), np.bool_), placement, outside=False)
    expected = np.zeros((size, size), np.bool_)
    expected[placement.target.slices] = True
    assert np.array_equal(grid, expected)
    seen = placement.seen
    whole = [[seen.left, seen.top, seen.left + seen.width, seen.top + seen.height]]
    (box,) = boxes_on_grid(np.array(whole, dtype=np.float64), placement)
    target = placement.target
    corners = [target.left, target.top, target.left + target.width, target.top + target.height]
    assert np.allclose(box, corners, rtol=0, atol=1e-9)  # rounding of doubles


def test_padding_takes_the_value_for_outside() -> None:
    _, placement = fit_image(np.zeros((10, 20, 3), np.uint8), 20, "letterbox")
    empty = np.zeros((10, 20), np.bool_)
    assert mask_on_grid(empty, placement, outside=True).sum() == 20 * 20 - 20 * 10


def test_masks_and_boxes_of_a_grid_agree() -> None:
    _, placement = fit_image(np.zeros((40, 80, 3), np.uint8), 20, "stretch")
    mask = np.zeros((40, 80), np.bool_)
    mask[8:20, 40:72] = True
    rows, columns = np.nonzero(mask_on_grid(mask, placement, outside=False))
    tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert boxes_on_grid(np.array([[40.0, 8, 72, 20]]), placement).tolist() == [tight]
