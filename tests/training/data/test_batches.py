from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.toy_training import photo, write_photo
from klieg.errors import DataError
from klieg.training.data.batches import (
    Batch,
    Schedule,
    centre_crop,
    derived_seed,
    readable,
    training_batches,
)
from klieg.training.data.photos import Photo, find_photos
from klieg.training.settings.options import DataOptions, OptimiserOptions


def schedule(photos: int = 20, seed: int = 0, **options: Any) -> Schedule:
    return Schedule(photos, OptimiserOptions(**{"epochs": 3, "batch_size": 4, **options}), seed)


def listed(root: Path, **options: Any) -> tuple[tuple[Photo, ...], DataOptions]:
    data = DataOptions(path=str(root), image_size=32, **options)
    return find_photos(data, classes=5, seed=0).training, data


def batches(root: Path, steps: range, *, seed: int = 0, **options: Any) -> list[Batch]:
    photos, data = listed(root, **options)
    return list(
        training_batches(photos, data, schedule(len(photos), seed), steps, share=slice(None))
    )


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )


def test_items_do_not_depend_on_what_was_asked_before() -> None:
    once = [schedule().items(step) for step in range(15)]
    backwards = schedule()
    assert [backwards.items(step) for step in reversed(range(15))] == once[::-1]
    assert schedule(seed=1).items(0) != once[0]
    assert schedule().items(7) == once[7]


@pytest.mark.parametrize("photos", [20, 21, 23])
def test_every_photo_at_most_once_per_epoch(photos: int) -> None:
    plan = schedule(photos)
    assert plan.steps_per_epoch == 5
    assert plan.steps == 15
    for epoch in range(3):
        items = [item for step in range(5) for item in plan.items(5 * epoch + step)]
        assert set(Counter(index for index, _ in items).values()) == {1}
        assert len(items) == 20
    first, second = ([i for s in range(5) for i, _ in plan.items(5 * e + s)] for e in (0, 1))
    assert first != second
    seeds = [seed for step in range(15) for _, seed in plan.items(step)]
    assert len(set(seeds)) == len(seeds)


def test_shares_of_an_epoch() -> None:
    assert schedule(100, share_per_epoch=0.2).steps_per_epoch == 5
    assert schedule(1_281_167, share_per_epoch=0.2, batch_size=128).steps_per_epoch == 2001
    few = schedule(3)
    assert few.steps_per_epoch == 1
    assert sorted(index for index, _ in few.items(0)) == [0, 1, 2]


def test_steps_are_drawn_when_their_turn_comes(
    squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run on ImageNet has 200,000 steps: all at once they would take an hour and gigabytes."""
    photos, data = listed(squares)
    drawn, items = [], Schedule.items
    monkeypatch.setattr(
        Schedule, "items", lambda self, step: (drawn.append(step), items(self, step))[1]
    )
    plan = schedule(len(photos))
    next(training_batches(photos, data, plan, range(plan.steps), share=slice(None)))
    assert len(drawn) <= 2


def test_same_seed_same_pixels(squares: Path) -> None:
    first = batches(squares, range(6))
    assert same(first, batches(squares, range(6)))
    assert same(first[4:], batches(squares, range(4, 6)))
    assert not same(first, batches(squares, range(6), seed=1))
    assert first[0].images.shape == (4, 3, 32, 32)
    assert first[0].images.dtype == torch.float32
    assert first[0].images.min() >= 0
    assert 0.5 < first[0].images.max() <= 1
    assert first[0].labels.dtype == torch.int64


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_change_nothing(squares: Path) -> None:
    assert same(batches(squares, range(4), workers=0), batches(squares, range(4), workers=1))


def test_batches_leave_the_global_generator_alone(squares: Path) -> None:
    photos, data = listed(squares)
    torch.manual_seed(3)
    loader = training_batches(photos, data, schedule(), range(3), share=slice(None))
    next(loader)
    state = torch.random.get_rng_state()
    next(loader)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_labels_follow_their_photos(squares: Path) -> None:
    photos, _ = listed(squares)
    for step, batch in enumerate(batches(squares, range(3))):
        expected = [photos[index].label for index, _ in schedule(len(photos)).items(step)]
        assert batch.labels.tolist() == expected


def test_processes_share_a_batch(squares: Path) -> None:
    photos, data = listed(squares)
    whole = batches(squares, range(2))
    for rank in range(2):
        part = list(
            training_batches(photos, data, schedule(), range(2), share=slice(rank, None, 2))
        )
        assert all(
            torch.equal(a.images[rank::2], b.images) for a, b in zip(whole, part, strict=True)
        )


def damaged(root: Path, *, count: int) -> Path:
    """Write four photos of which some are cut short."""
    for number in range(4):
        path = write_photo(root / "0" / f"{number}.png", photo(0, number))
        if number < count:
            path.write_bytes(path.read_bytes()[:200])
    return root


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_photos(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # As long torch waits for a worker that has raised an error, when its loader is collected.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    root = damaged(tmp_path, count=2)
    with pytest.raises(DataError, match=r"(?s)[01]\.png is cut short.*data.unreadable"):
        batches(root, range(1), workers=workers)
    gc.collect()
    (batch,) = batches(root, range(1), workers=workers, unreadable="skip")
    assert batch.images.shape == (2, 3, 32, 32)
    photos, data = listed(root, unreadable="skip")
    assert [one.path.name for one in readable(photos, data)] == ["2.png", "3.png"]
    assert len(list(readable(*listed(root)))) == 4


def test_a_batch_needs_two_photos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only 1 of 4 photos of a batch can be read"):
        batches(damaged(tmp_path, count=3), range(1), unreadable="skip")


def test_centre_crop(tmp_path: Path) -> None:
    image = photo(1, 0, (40, 60))
    image[:, :5] = image[:, -5:] = 255  # outside the square in the middle
    crop = centre_crop(Photo(write_photo(tmp_path / "x.png", image), 1), 35)
    assert crop.shape == (3, 35, 35)  # 40 pixels are 8/7 of 35: nothing is resized
    expected = torch.from_numpy(image.transpose(2, 0, 1))[:, 2:37, 12:47]
    assert int((crop.int() - expected.int()).abs().max()) <= 1


def test_derived_seeds_differ() -> None:
    seeds = {derived_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
