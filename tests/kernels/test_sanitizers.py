"""The kernels' own tests once more, watched by AddressSanitizer and by ThreadSanitizer.

The first finds accesses outside of memory and undefined behaviour, the second pairs of accesses
that no barrier orders. Both must be loaded before Python, so that each run is a process.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.cpu_build import sanitizer

FOLDER = Path(__file__).parent
FILES = sorted(path.name for path in (FOLDER / "cuda").glob("test_*.py"))
RUNS = [(kind, name) for name in FILES for kind in ("thread", "address")]
LIMIT = 300  # seconds for one file

EXAMPLES = {"address": "12", "thread": "1"}  # races do not depend on sizes as bounds do
OPTIONS = {
    "address": {
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16",  # Python leaks by intent
        "UBSAN_OPTIONS": "print_stacktrace=1",
    },
    "thread": {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66"},
}

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed"),
    pytest.mark.skipif(sanitizer() != "", reason="runs under a sanitizer already"),
]


@functools.cache
def library(kind: str) -> Path:
    """Return the sanitizer's library, to be loaded before all others."""
    name = {"address": "libasan.so", "thread": "libtsan.so"}[kind]
    done = subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    path = Path(done.stdout.strip())
    if not path.is_file():
        pytest.skip(f"{name} of g++ is not installed")
    return path


def watched(kind: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python under a sanitizer."""
    environment = {
        **os.environ,
        **OPTIONS[kind],
        "LD_PRELOAD": str(library(kind)),
        "KLIEG_SHIM_SANITIZE": kind,
        "KLIEG_SHIM_EXAMPLES": EXAMPLES[kind],
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(FOLDER.parent),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


Runs = dict[tuple[str, str], Future[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Start all that was selected, two processes at a time."""
    selected = {
        (item.callspec.params["kind"], item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_kernels"
    }
    options = ["-m", "pytest", "-s", "-p", "no:cacheprovider", f"--confcutdir={FOLDER}"]
    with ThreadPoolExecutor(2) as pool:
        yield {
            (kind, name): pool.submit(watched, kind, [*options, str(FOLDER / "cuda" / name)])
            for kind, name in RUNS
            if (kind, name) in selected
        }


@pytest.mark.parametrize(("kind", "name"), RUNS)
def test_kernels(runs: Runs, kind: str, name: str) -> None:
    done = runs[kind, name].result()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("kind", ["address", "thread"])
def test_right_kernels_pass(kind: str) -> None:
    done = watched(kind, [str(FOLDER / "run_fault.py"), "fine"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "fault", "message"),
    [
        ("address", "read_past_the_end", "heap-buffer-overflow"),
        ("address", "write_past_shared", "heap-buffer-overflow"),
        ("thread", "missing_barrier", "data race"),
        ("thread", "same_place_in_every_block", "data race"),
    ],
)
def test_planted_faults_are_found(kind: str, fault: str, message: str) -> None:
    done = watched(kind, [str(FOLDER / "run_fault.py"), fault])
    assert done.returncode != 0
    assert message in done.stderr
    assert "self_test.cu" in done.stderr
