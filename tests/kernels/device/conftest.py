"""Both packages as doubles over one recorded driver, so that both leave the same record."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klieg.kernels.device import CudaDevice, opening
from klieg.kernels.device import pycuda as klieg_pycuda

sys.path.insert(0, str(Path(__file__).parent))

from recorded_cuda_core import cuda_core
from recorded_driver import FATBIN, Driver, FakeLibcuda
from recorded_pycuda import pycuda


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """The driver that both packages find in this test."""
    found = Driver()
    monkeypatch.setattr(opening, "Libcuda", lambda: FakeLibcuda(found))
    for name, double in (cuda_core(found) | pycuda(found)).items():
        monkeypatch.setitem(sys.modules, name, double)
    klieg_pycuda._primary_context.cache_clear()
    yield found
    klieg_pycuda._primary_context.cache_clear()


@pytest.fixture(params=["cuda.core", "pycuda"])
def package(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def device(driver: Driver, package: str) -> CudaDevice:
    """A device on the first GPU, with an empty record."""
    opened = opening.open_device(package)
    driver.record.clear()
    return opened


@pytest.fixture
def kernel(driver: Driver, device: CudaDevice) -> Any:
    """A kernel loaded on the device, with an empty record."""
    found = device.load(FATBIN).kernel("klieg_a")
    driver.record.clear()
    return found
