"""Runs a script over the driver of fake_libcuda.c, in a process that finds it before any other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_libcuda.c")


def run_over_fake_libcuda(script: Path, folder: Path) -> str:
    """Return what the driver recorded; it is compiled into `folder`."""
    if sys.platform != "linux":
        pytest.skip("the fake driver takes the place of libcuda.so.1, which only Linux has")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the fake driver needs cc")
    library, record = folder / "libcuda.so.1", folder / "record"
    flags = ["-shared", "-fPIC", "-Wall", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, "-o", library, SOURCE, "-ldl"], check=True)
    others = os.environ.get("LD_LIBRARY_PATH")
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join([str(folder), *([others] if others else [])]),
        "FAKE_LIBCUDA_RECORD": str(record),
    }
    done = subprocess.run(
        [sys.executable, script], env=environment, stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return record.read_text()
