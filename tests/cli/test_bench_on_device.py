"""klieg bench on a device, the CPU in a GPU's place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helpers.cpu_device import CpuDevice
from klieg.backends.onnxruntime.device import MEMORY
from klieg.cli import main
from klieg.kernels.device import opening


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CpuDevice:
    """What any name of a device opens; ONNX Runtime's CPU provider computes in its memory."""
    device = CpuDevice(records=True)
    monkeypatch.setattr(opening, "open_device", lambda _: device)
    monkeypatch.setitem(MEMORY, "CPUExecutionProvider", "cpu")
    return device


def bench(*arguments: Any) -> Result:
    return CliRunner().invoke(
        main,
        ["bench", *map(str, arguments), "--device", "cpu", "--provider", "CPUExecutionProvider"],
    )


def test_passes_and_maps_of_one_image_and_a_batch(
    small_explainer_all: Path, device: CpuDevice
) -> None:
    result = bench(small_explainer_all, "--repeat", 2, "--batch-size", 3)
    assert result.exit_code == 0, result.output
    head, counts, *rows = result.output.splitlines()
    assert head == f"{device.name}, 8 scales of 32 to 132 pixels"
    assert counts.split() == ["1", "image", "3", "images"]
    assert max(map(len, result.output.splitlines())) <= 80
    assert [row[:32].rstrip() for row in rows] == [
        "bare passes",
        "CAMERAS, photos on the host",
        "  over the bare passes",
        "  images per second",
        "CAMERAS, photos on the GPU",
        "  over the bare passes",
        "  images per second",
        "CASM, photos on the GPU",
        "  images per second",
    ]
    model, cameras = ([float(cell) for cell in row.split()[-4::2]] for row in rows[:2])
    over, rate = ([float(c.rstrip("%")) for c in row.split()[-2:]] for row in rows[2:4])
    for column, images in enumerate((1, 3)):  # passes of 0.3 ms are shown to 0.01 ms
        ratio = cameras[column] / model[column]
        assert 1 + over[column] / 100 == pytest.approx(ratio, rel=0.03)
        assert rate[column] == pytest.approx(images * 1e3 / cameras[column], rel=0.02)
    assert device.held == 0


def test_a_batch_of_one_is_one_column(small_explainer: Path, device: CpuDevice) -> None:
    result = bench(small_explainer, "--repeat", 1, "--batch-size", 1)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[1].split() == ["1", "image"]
    assert "CASM" not in result.output


@pytest.mark.parametrize("option", ["--classifier", "--published"])
def test_what_compares_on_the_processor(
    option: str, small_explainer: Path, device: CpuDevice
) -> None:
    result = bench(small_explainer, option, small_explainer)
    assert result.exit_code == 2
    assert "leave out --device" in result.output
