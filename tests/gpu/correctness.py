"""The kernels' own tests, on the GPU: random inputs, poisoned outputs, compute-sanitizer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from klieg.kernels.device import CudaDevice
from rows import Row, Skipped

TESTS = Path(__file__).parents[1] / "kernels" / "cuda"
SANITIZERS = ("memcheck", "racecheck")


def rows(device: CudaDevice, name: str) -> Iterator[Row]:
    """Run every test of every kernel."""
    done = _pytest([], name, examples=200)
    yield _row("kernels equal their truth (all tests of tests/kernels/cuda)", done)


def sanitizer_rows(device: CudaDevice, name: str) -> Iterator[Row]:
    """Run them under compute-sanitizer, with few examples."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise Skipped("compute-sanitizer is not installed: it comes with the CUDA toolkit")
    for tool in SANITIZERS:
        # Asking where a host address lies is an error of the driver's, and part of every copy.
        command = [program, "--tool", tool, "--error-exitcode", "99"]
        command += ["--report-api-errors", "no"] if tool == "memcheck" else []
        yield _row(f"compute-sanitizer {tool}", _pytest(command, name, examples=3))


def _pytest(prefix: list[str], name: str, *, examples: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *prefix,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "--confcutdir",
            str(TESTS.parent),
            str(TESTS),
        ],
        env={**os.environ, "KLIEG_KERNEL_DEVICE": name, "KLIEG_SHIM_EXAMPLES": str(examples)},
        capture_output=True,
        text=True,
        check=False,
    )


def _row(what: str, done: subprocess.CompletedProcess[str]) -> Row:
    lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-2000:], sep="\n")
    counts = [line for line in lines if re.search(r"\d+ (passed|failed)", line)]
    summary = (counts or lines)[-1]
    return Row(what, found=summary.strip("= "), wanted="all pass", good=done.returncode == 0)
