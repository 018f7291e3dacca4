from __future__ import annotations

from pathlib import Path

import pytest

from klieg.errors import CheckpointError
from klieg.training.log import Log


def rows(path: Path) -> list[str]:
    return path.read_text().splitlines()


def filled(path: Path, steps: int) -> Path:
    log = Log(path, done=0)
    for step in range(1, steps + 1):
        log.add(step, {"loss": step / 3, "mask": 0.5})
    return path


def test_a_log_goes_on_where_the_checkpoint_is(tmp_path: Path) -> None:
    whole, cut = filled(tmp_path / "whole.csv", 6), filled(tmp_path / "cut.csv", 5)
    log = Log(cut, done=3)
    assert len(rows(cut)) == 4
    for step in range(4, 7):
        log.add(step, {"loss": step / 3, "mask": 0.5})
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path, kept: int) -> None:
    path = filled(tmp_path / "log.csv", 12)
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:kept])
    Log(path, done=11)
    assert path.read_bytes() == b"".join(whole)


def test_a_run_from_the_start_has_a_new_log(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.csv", 3)
    log = Log(path, done=0)
    assert not path.exists()
    log.add(1, {"other": 1})
    assert rows(path) == ["step,other", "1,1"]


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    log = Log(tmp_path / "no" / "folder.csv", done=0)
    with pytest.raises(CheckpointError, match=r"cannot write .*folder\.csv"):
        log.add(1, {"loss": 1})
