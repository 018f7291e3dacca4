"""Compiles the kernels in advance: `python -m klieg.kernels.cuda.fatbin` leaves one here.

One file serves every GPU since Turing: machine code for each architecture, and PTX for the driver
to compile on architectures that are missing or came later.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klieg.errors import DeviceError
from klieg.kernels.cuda.sources import FOLDER, fatbin_path, translation_unit
from klieg.storage.atomic import atomic_path

ARCHITECTURES: Final = (75, 80, 86, 87, 89, 90, 100, 120)
"""Machine code also runs on later minor versions, such as that for 120 on 121."""

PTX: Final = 90
"""For 110 and what comes after 120; nothing between 75 and 90 is missing above."""

COMPILERS: Final = 2
"""Architectures compiled at once."""

ENTRY: Final = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<architecture>\d+)\w*'\s*\n"
    r".*Function properties for \w+\s*\n"
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\s*\n"
    r".*Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?"
)


@dataclass(frozen=True, order=True)
class KernelUsage:
    """What one kernel takes of one architecture."""

    kernel: str
    architecture: int  # such as 90
    registers: int  # per thread
    shared: int  # bytes of static shared memory per block
    stack: int  # bytes of local memory per thread
    spills: int  # bytes stored to and loaded from local memory for want of registers


def main() -> None:
    """Build the fatbin and print what each kernel takes."""
    path = fatbin_path()
    rows = compile_report(path)
    for older in set(FOLDER.glob("klieg-*.fatbin")) - {path}:
        older.unlink()
    print(f"{'kernel':32} {'registers':>9} {'shared':>8} {'stack':>6} {'spills':>7}")
    for kernel, group in itertools.groupby(rows, key=lambda row: row.kernel):
        each = list(group)
        low, high = (choose(row.registers for row in each) for choose in (min, max))
        stack, spills = (max(row.stack for row in each), max(row.spills for row in each))
        shared = max(row.shared for row in each)
        registers = f"{low}-{high}" if low < high else f"{low}"
        print(f"{kernel:32} {registers:>9} {shared:6} B {stack:4} B {spills:5} B")
    print(f"for sm_{', '.join(map(str, ARCHITECTURES))} and later")
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def compile_report(output: Path) -> list[KernelUsage]:
    """Compile all kernels for all architectures into one compressed fatbin.

    Args:
        output: The file, complete or untouched.

    Returns:
        A row per kernel and architecture, sorted.

    Raises:
        DeviceError: nvcc is not installed, or refuses the sources.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise DeviceError(
            "nvcc is not in the PATH: install the CUDA toolkit (13 or later), or leave the kernels "
            "to be compiled where they run, which needs NVRTC only"
        )
    targets = [f"arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    targets.append(f"arch=compute_{PTX},code=compute_{PTX}")
    with tempfile.TemporaryDirectory() as folder, atomic_path(output) as path:
        source = Path(folder) / "klieg.cu"
        source.write_text(translation_unit(), encoding="utf-8")
        command = [
            nvcc,
            "-fatbin",
            "-std=c++17",
            "--threads",
            str(COMPILERS),
            "--compress-mode=size",
            *(f"--generate-code={target}" for target in targets),
            "-I",
            str(FOLDER),
            "-Xptxas",
            "-v",
            "-o",
            str(path),
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise DeviceError(f"nvcc cannot compile the kernels:\n{done.stderr}")
        return usage(done.stderr)


def usage(report: str) -> list[KernelUsage]:
    """Read what `ptxas -v` writes.

    Raises:
        DeviceError: an entry is not of the form known here.
    """
    rows = [
        KernelUsage(
            entry["kernel"],
            int(entry["architecture"]),
            int(entry["registers"]),
            int(entry["shared"] or 0),
            int(entry["stack"]),
            int(entry["stores"]) + int(entry["loads"]),
        )
        for entry in ENTRY.finditer(report)
    ]
    if len(rows) != report.count("Compiling entry function"):
        raise DeviceError(f"nvcc's report is not of the form known here:\n{report}")
    return sorted(rows)


if __name__ == "__main__":
    main()
