"""The record of an evaluation, and what a failure leaves in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klieg.errors import EvaluationError
from klieg.evaluation.datasets.annotated import Problem
from klieg.evaluation.record import Record, Row

CONFIGURATION = {"methods": ["gradcam", "cam"], "seed": 0}


def opened(folder: Path, **changed: object) -> Record:
    return Record(folder, CONFIGURATION | changed, metrics=["pointing", "pxap"], pooled=["pxap"])


def batch(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    rows = [
        Row(
            number,
            f"{number},ä.png",
            "cat",
            2,
            method,
            {"pointing": value, "pxap": np.nan},
            {"pxap": rng.integers(0, 2**24, 5)},
        )
        for method in ("gradcam", "cam")
        for value in (1.0, 0.0, 1 / 3)
    ]
    problem = Problem("unreadable image", f"{number}.png", 'says "no",\nthen stops')
    return {"photos": number + 1, "rows": rows, "problems": [problem]}


def keys(rows: Any) -> list[tuple[object, ...]]:
    return [(row.photo, row.image, row.category, row.target, row.method) for row in rows]


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    record = opened(tmp_path)
    for number in range(2):
        record.add(**batch(number))
    expected = [row for number in range(2) for row in batch(number)["rows"]]
    rows = list(opened(tmp_path).rows())
    assert keys(rows) == keys(expected)
    values = [row.scores["pointing"] for row in rows]
    assert values == pytest.approx([row.scores["pointing"] for row in expected], rel=1e-8)
    assert all(np.isnan(row.scores["pxap"]) for row in rows)
    assert list(record.problems()) == [batch(number)["problems"][0] for number in range(2)]


def test_rows_of_a_method_come_with_their_terms(tmp_path: Path) -> None:
    record = opened(tmp_path)
    for number in range(2):
        record.add(**batch(number))
    expected = [row for number in range(2) for row in batch(number)["rows"] if row.method == "cam"]
    found = list(record.rows("cam"))
    assert keys(found) == keys(expected)
    for row, one in zip(found, expected, strict=True):
        np.testing.assert_array_equal(row.terms["pxap"], one.terms["pxap"])


def test_exported_tables_are_the_same_after_an_interruption(tmp_path: Path) -> None:
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    record = opened(whole)
    for number in range(3):
        record.add(**batch(number))
    opened(interrupted).add(**batch(0))
    again = opened(interrupted)
    assert again.photos == 1
    for number in range(1, 3):
        again.add(**batch(number))
    for one in (record, again):
        one.export()
    for name in ("scores.csv", "problems.csv", "configuration.json"):
        assert (interrupted / name).read_bytes() == (whole / name).read_bytes()
    lines = (whole / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "photo,image,category,class,method,pointing,pxap"
    assert lines[3] == '0,"0,ä.png",cat,2,gradcam,0.333333333,'


def test_a_batch_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.add(**batch(0))
    half = batch(1)

    def rows() -> Iterator[Row]:
        yield half["rows"][0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record.add(**half | {"rows": rows()})
    again = opened(tmp_path)
    assert again.photos == record.photos == 1
    assert len(list(again.rows())) == len(batch(0)["rows"])


def test_another_evaluation_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).add(**batch(0))
    before = (tmp_path / "record.sqlite").read_bytes()
    with pytest.raises(EvaluationError, match=r"other seed \(for seed 0, now 1\)"):
        opened(tmp_path, seed=1)
    assert (tmp_path / "record.sqlite").read_bytes() == before


def test_the_folder_of_an_older_klieg_is_refused_and_left_alone(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.export()
    (tmp_path / "record.sqlite").unlink()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(EvaluationError, match=r"older klieg, .*: use another folder"):
        opened(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match=r"cannot write to .*file"):
        opened(tmp_path / "file")
    opened(tmp_path / "damaged")
    shutil.copy(__file__, tmp_path / "damaged" / "record.sqlite")
    with pytest.raises(EvaluationError, match=r"cannot use .*: file is not a database"):
        opened(tmp_path / "damaged")
