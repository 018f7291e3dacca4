"""Files that only grow, and what a kill leaves in them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from klieg.errors import EvaluationError
from klieg.evaluation.datasets.annotated import Problem
from klieg.evaluation.record import Record, Row

CONFIGURATION = {"methods": ["gradcam"], "seed": 0}


def opened(folder: Path, **changed: object) -> Record:
    return Record(folder, CONFIGURATION | changed, metrics=["pointing", "pxap"], pooled=["pxap"])


def batch(number: int) -> dict[str, object]:
    rng = np.random.default_rng(number)
    rows = [
        Row(number, f"{number},ä.png", "cat", 2, "gradcam", {"pointing": value, "pxap": np.nan})
        for value in (1.0, 0.0, 1 / 3)
    ]
    return {
        "photos": number + 1,
        "rows": rows,
        "terms": {"pxap": [rng.integers(0, 2**24, (3, 5))]},
        "problems": [Problem("unreadable image", f"{number}.png", 'says "no",\nthen stops')],
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    record = opened(tmp_path)
    for number in range(2):
        record.add(**batch(number))
    rows = list(record.rows())
    expected = [row for number in range(2) for row in batch(number)["rows"]]
    assert [(row.photo, row.image, row.category, row.target, row.method) for row in rows] == [
        (row.photo, row.image, row.category, row.target, row.method) for row in expected
    ]
    values = [row.scores["pointing"] for row in rows]
    assert values == pytest.approx([row.scores["pointing"] for row in expected], rel=1e-8)
    assert all(np.isnan(row.scores["pxap"]) for row in rows)
    for number, terms in enumerate(record.terms("pxap")):
        assert np.array_equal(terms, batch(number)["terms"]["pxap"][0])
    assert list(record.problems()) == [batch(number)["problems"][0] for number in range(2)]


@pytest.mark.parametrize("torn", ["scores.csv", "problems.csv", "pxap.terms"])
def test_half_a_batch_is_cut_off(tmp_path: Path, torn: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    record = opened(whole)
    for number in range(3):
        record.add(**batch(number))
    record = opened(killed)
    record.add(**batch(0))
    with (killed / torn).open("ab") as file:
        file.write(b"1,half a li")
    record = opened(killed)
    assert record.photos == 1
    for number in range(1, 3):
        record.add(**batch(number))
    assert contents(killed) == contents(whole)


@pytest.mark.parametrize("moment", ["scores.csv", "problems.csv", "pxap.terms", "progress.json"])
def test_a_kill_while_a_batch_is_added_loses_that_batch_only(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        opened(folder).add(**batch(0))
    opened(whole).add(**batch(1))

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    record = opened(killed)
    with monkeypatch.context() as patched:
        if moment == "progress.json":
            patched.setattr(os, "replace", die)
        else:
            original = Path.open

            def limited(path: Path, mode: str = "r", *rest: object, **more: object) -> object:
                if path.name == moment and "a" in mode:
                    raise Killed
                return original(path, mode, *rest, **more)

            patched.setattr(Path, "open", limited)
        with pytest.raises(Killed):
            record.add(**batch(1))
    opened(killed).add(**batch(1))
    assert contents(killed) == contents(whole)


def test_another_evaluation_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).add(**batch(0))
    before = contents(tmp_path)
    with pytest.raises(EvaluationError, match=r"other seed \(for seed 0, now 1\)"):
        opened(tmp_path, seed=1)
    assert contents(tmp_path) == before


def test_a_full_disk_is_reported_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = opened(tmp_path)
    record.add(**batch(0))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(EvaluationError, match="No space left on device"):
            record.add(**batch(1))
    again = opened(tmp_path)
    assert again.photos == 1
    assert len(list(again.rows())) == 3
