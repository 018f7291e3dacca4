from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from klieg.storage.atomic import atomic_path


def test_complete_file_takes_its_place(tmp_path: Path) -> None:
    final = tmp_path / "result.npy"
    final.write_text("old")
    with atomic_path(final) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npy"
        temporary.write_text("new")
        assert final.read_text() == "old"
    assert final.read_text() == "new"
    assert os.listdir(tmp_path) == ["result.npy"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    final = tmp_path / "result.png"
    final.write_text("old")

    def write() -> None:
        with atomic_path(final) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert final.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.png"]


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        pass
    assert not os.listdir(tmp_path)


def test_missing_folders_are_created(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a" / "b" / "x") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a" / "b" / "x").read_text() == "new"


def test_ordinary_permissions(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        with atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
