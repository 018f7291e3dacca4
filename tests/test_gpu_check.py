"""`make gpu-check` without a GPU: its table, its clock, and that it says why it skips."""

from __future__ import annotations

import ctypes.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import check
from clock import REPEATS, Clock
from helpers.cpu_device import CpuDevice
from klieg.errors import DeviceError
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.normalize import normalize
from klieg.kernels.device.array import DeviceArray
from rows import Row, Skipped, as_markdown


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is a GPU driver")
def test_a_machine_without_a_gpu_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["check.py", "-o", str(tmp_path / "table.md")])
    with pytest.raises(SystemExit) as end:
        check.main()
    assert end.value.code == 0
    assert "skipped  there is no NVIDIA driver" in capsys.readouterr().out
    assert "| everything | there is no NVIDIA driver" in (tmp_path / "table.md").read_text()


def test_a_promise_that_does_not_hold_fails() -> None:
    rows = [Row("a", "1", "2", good=False), Row("b", "3"), Row("c", skipped="no torch")]
    assert [row.failed for row in rows] == [True, False, False]
    assert as_markdown("GPU", rows).splitlines()[4:] == [
        "| a | 1 | 2 | NO |",
        "| b | 3 |  |  |",
        "| c | no torch |  | skipped |",
    ]


def test_the_clock_replays_work_on_inputs_in_turn() -> None:
    clock = Clock(CpuDevice(records=True))
    kernels = Kernels(clock.device)
    raw = [
        DeviceArray.of(clock.device, np.full((1, 4, 4), number, dtype=np.float32))
        for number in range(2)
    ]
    asked = []
    seconds = clock.seconds(
        lambda number, memory: (
            asked.append(number) or normalize(kernels.within(memory), raw[number], masks=False)
        ),
        inputs=2,
    )
    assert 0 < seconds < 1
    assert asked == [0, 1] * (1 + REPEATS)  # run once, then recorded
    assert clock.held >= raw[0].size


def test_a_failure_in_one_part_is_a_row_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[Row]:
        yield Row("before", "1")
        raise DeviceError("an illegal address")

    def absent(*_: object) -> Iterator[Row]:
        yield from ()
        raise Skipped("no torch")

    monkeypatch.setattr(check, "PARTS", {"a": broken, "b": absent})
    monkeypatch.setattr(check, "open_device", lambda _: CpuDevice())
    monkeypatch.setattr(sys, "argv", ["check.py", "-o", str(tmp_path / "table.md")])
    with pytest.raises(SystemExit) as end:
        check.main()
    assert end.value.code == 1
    assert (tmp_path / "table.md").read_text().splitlines()[4:] == [
        "| before | 1 |  |  |",
        "| a | DeviceError: an illegal address | no failure | NO |",
        "| b | no torch |  | skipped |",
    ]
