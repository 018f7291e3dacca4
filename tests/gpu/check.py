"""What only a GPU can show: kernels against their truth, sanitizers, timings. `make gpu-check`.

Prints one table and writes it to a file, with GPU, driver and date. What cannot run here is a row
that says why. Exit code 1 if something that ran is wrong.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import correctness
import end_to_end
import throughput

from klieg.errors import DeviceError, KliegError
from klieg.kernels.device.opening import open_device
from klieg.storage.atomic import atomic_path
from rows import Row, Skipped, as_markdown


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the table, in Markdown")
    parser.add_argument("--device", default="cuda.core", help="what drives the GPU")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; repeatable")
    arguments = parser.parse_args()
    table = _Table(arguments.output)
    try:
        device = open_device(arguments.device)
    except DeviceError as error:
        table.add(Row("everything", skipped=str(error)))
        sys.exit(0)
    versions = ", ".join(f"{name} {version}" for name, version in device.versions.items())
    table.heading = f"{device.name}, {versions}"
    for part in arguments.part or PARTS:
        try:
            for row in PARTS[part](device, arguments.device):
                table.add(row)
        except Skipped as reason:
            table.add(Row(part, skipped=str(reason)))
        except (KliegError, RuntimeError) as error:  # torch's are RuntimeErrors
            found = f"{type(error).__name__}: {error}".splitlines()[0]
            table.add(Row(part, found, "no failure", good=False))
    sys.exit(any(row.failed for row in table.rows))


class _Table:
    """Rows, written to a file as they come: a process that dies leaves those before."""

    def __init__(self, path: Path) -> None:
        self.heading = "no GPU"
        self.rows: list[Row] = []
        self._path = path

    def add(self, row: Row) -> None:
        print(row.text(), flush=True)
        self.rows.append(row)
        date = datetime.date.today().isoformat()
        with atomic_path(self._path) as temporary:
            text = as_markdown(f"{self.heading}, {date}", self.rows)
            temporary.write_text(text, encoding="utf-8")


PARTS = {
    "correctness": correctness.rows,
    "sanitizers": correctness.sanitizer_rows,
    "throughput": throughput.rows,
    "end-to-end": end_to_end.rows,
}

if __name__ == "__main__":
    main()
