"""What only a GPU can show: kernels against their truth, sanitizers, timings. `make gpu-check`.

Prints one table and writes it to a file, with GPU, driver and date. What cannot run here is a row
that says why. Exit code 1 if something that ran is wrong.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import correctness
import end_to_end
import throughput

from klieg.atomic import atomic_path
from klieg.errors import DeviceError
from klieg.kernels.device import CudaDevice
from klieg.kernels.device.opening import open_device
from rows import Row, Skipped, as_markdown


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the table, in Markdown")
    parser.add_argument("--device", default="cuda.core", help="what drives the GPU")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; repeatable")
    arguments = parser.parse_args()
    rows = []
    heading = "no GPU"
    try:
        device = open_device(arguments.device)
        heading = f"{device.name}, {', '.join(f'{k} {v}' for k, v in device.versions.items())}"
        for row in _all(device, arguments.device, arguments.part or list(PARTS)):
            print(row.text(), flush=True)
            rows.append(row)
    except DeviceError as error:
        rows.append(Row("everything", skipped=f"{error}"))
        print(rows[-1].text())
    with atomic_path(arguments.output) as temporary:
        date = datetime.date.today().isoformat()
        temporary.write_text(as_markdown(f"{heading}, {date}", rows), encoding="utf-8")
    sys.exit(any(row.failed for row in rows))


def _all(device: CudaDevice, name: str, parts: list[str]) -> Iterator[Row]:
    for part in parts:
        try:
            yield from PARTS[part](device, name)
        except Skipped as reason:
            yield Row(part, skipped=str(reason))


PARTS = {
    "correctness": correctness.rows,
    "sanitizers": correctness.sanitizer_rows,
    "throughput": throughput.rows,
    "end-to-end": end_to_end.rows,
}

if __name__ == "__main__":
    main()
