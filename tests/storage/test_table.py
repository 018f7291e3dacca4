"""Rows that survive a kill and a full disk."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from klieg.errors import CheckpointError
from klieg.storage.table import Tables, check_configuration

COLUMNS = {"numbers": ["batch", "value"], "done": ["batches"]}


def opened(folder: Path) -> Tables:
    return Tables(
        folder / "rows.sqlite", COLUMNS, exported=folder / "rows.csv", error=CheckpointError
    )


def batches(tables: Tables) -> int:
    """Return how many batches there are, each as a whole."""
    numbers = list(tables.rows("numbers", ["batch", "value"]))
    done = [batch for (batch,) in tables.rows("done", ["batches"])]
    assert done == list(range(len(done)))
    assert numbers == [(batch, value) for batch in done for value in range(50)]
    return len(done)


SCRIPT = """
import sys
from itertools import count
from pathlib import Path
from test_table import batches, opened
tables = opened(Path(sys.argv[1]))
for batch in count(batches(tables)):
    print(batch, flush=True)
    tables.add({"numbers": [(batch, value) for value in range(50)], "done": [[batch]]})
"""


def test_a_kill_at_any_moment_leaves_whole_batches(tmp_path: Path) -> None:
    rng, before = np.random.default_rng(0), 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent,
        ) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == before  # it goes on where it was
            time.sleep(rng.uniform(0.02, 0.1))
            process.send_signal(signal.SIGKILL)
        before = batches(opened(tmp_path))
    assert before > 0


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size in bytes: to SQLite that is a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    tables = opened(tmp_path)
    tables.add({"numbers": [(0, value) for value in range(50)], "done": [[0]]})
    size = (tmp_path / "rows.sqlite").stat().st_size
    text = "x" * 100_000
    with largest_file(size + 8192), pytest.raises(CheckpointError, match="before is complete"):
        tables.add({"numbers": [(1, text)], "done": [[1]]})
    assert batches(opened(tmp_path)) == 1


def test_rows_are_filtered_and_exported_in_their_order(tmp_path: Path) -> None:
    tables = opened(tmp_path)
    tables.add({"numbers": [(0, "a"), (1, "b"), (0, "ü,")]})
    assert list(tables.rows("numbers", ["value"], batch=0)) == [("a",), ("ü,",)]
    tables.export("numbers", ["value", "batch"], tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == 'value,batch\na,0\nb,1\n"ü,",0\n'.encode()


def test_another_configuration_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "made" / "configuration.json"
    check = partial(check_configuration, path, work="a test", error=CheckpointError)
    check({"seed": 0, "sizes": (1, 2)})
    check({"sizes": [1, 2], "seed": 0})
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"a test with other depth, seed \(for depth null, "):
        check({"seed": 1, "sizes": (1, 2), "depth": 3})
    assert path.read_bytes() == before
