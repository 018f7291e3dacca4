from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.toy_training import ColourNet, photo, write_photo
from klieg.training.data.batches import centre_crop
from klieg.training.data.photos import Photo
from klieg.training.model.taps import TappedClassifier
from klieg.training.validation import Scores, validate

SIZE = 35
"""Photos of 40 x 56 pixels are cut to this and not resized."""
BOX = (slice(6, 22), slice(10, 26))
"""Where the square is then."""


class Given(nn.Module):
    """A head that returns one and the same mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, activations: list[Tensor], size: tuple[int, int]) -> Tensor:
        return self.mask.expand(len(activations[0]), 1, *size)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    """Photos of the classes 1 to 4: of a black image, ColourNet says 0."""
    folder = tmp_path_factory.mktemp("photos")
    return [
        Photo(write_photo(folder / f"{number}.png", photo(1 + number % 4, number)), 1 + number % 4)
        for number in range(19)
    ]


def scores(photos: list[Photo], mask: Tensor, **changes: Any) -> Scores:
    net = ColourNet().train()
    found = validate(
        photos,
        size=SIZE,
        normalise=lambda images: images,
        original=net,
        reader=TappedClassifier(net, ("fine", "coarse")),
        masker=Given(mask),
        **{"label": lambda _images, given: given, **changes},
    )
    assert net.training
    return found


def square(inside: float, outside: float) -> Tensor:
    mask = torch.full((1, 1, SIZE, SIZE), outside)
    mask[0, 0, BOX[0], BOX[1]] = inside
    return mask


def test_a_perfect_mask(photos: list[Photo]) -> None:
    area = 16 * 16 / SIZE**2
    got = scores(photos, square(1, 0))
    assert (got.in_correct, got.out_correct) == (1, 0)
    assert got.mask == pytest.approx(area, rel=1e-5)
    assert got.box_area == pytest.approx(area)
    assert got.saliency_metric == pytest.approx(math.log(area), abs=1e-3)  # the class is certain


def test_the_opposite_of_a_perfect_mask(photos: list[Photo]) -> None:
    got = scores(photos, square(0, 1))
    assert (got.in_correct, got.out_correct) == (0, 1)
    assert got.box_area == 1


def test_small_boxes_count_as_a_twentieth(photos: list[Photo]) -> None:
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[0, 0, 10:12, 14:16] = 0.7
    got = scores(photos, mask)
    assert got.box_area == pytest.approx(4 / SIZE**2)
    assert got.saliency_metric == pytest.approx(math.log(0.05), abs=1e-3)


def test_a_constant_mask_singles_nothing_out(photos: list[Photo]) -> None:
    got = scores(photos, torch.full((1, 1, SIZE, SIZE), 0.3))
    images = torch.stack([centre_crop(one, SIZE) for one in photos]).float() / 255
    with torch.no_grad():
        chances = ColourNet()(images).softmax(dim=1)
    expected = sum(-math.log(row[one.label]) for row, one in zip(chances, photos, strict=True))
    assert got.box_area == 1
    assert got.saliency_metric == pytest.approx(expected / len(photos), rel=1e-4)


def test_labels_may_be_others(photos: list[Photo]) -> None:
    got = scores(photos, square(1, 0), label=lambda _images, given: (given + 1) % 5)
    assert got.in_correct == 0
    assert got.saliency_metric > 5  # the least probability, 1e-6, counts
