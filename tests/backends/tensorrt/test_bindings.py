"""Which TensorRT is taken, and what it says when it fails."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from fake_tensorrt import fake_tensorrt
from klieg.backends.tensorrt.bindings import MESSAGES, open_tensorrt
from klieg.errors import BackendError


@pytest.mark.parametrize("version", ["10.1.0", "10.16.1.11", "11.4.0.106"])
def test_known_versions(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(version))
    assert open_tensorrt().version == version


@pytest.mark.parametrize("version", ["8.6.1", "1.7.1.116", "10.0.1", "12.0.0", "100.0", "11"])
def test_unknown_versions(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(version))
    with pytest.raises(
        BackendError, match=rf"TensorRT {version} is installed.*10 and 11 from 10.1 on.*pip"
    ):
        open_tensorrt()


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # how Python says that there is none
    with pytest.raises(BackendError, match=r"pip install 'klieg\[tensorrt\]'"):
        open_tensorrt()


def test_one_logger_per_process(trt: Any) -> None:
    assert open_tensorrt() is open_tensorrt()


def test_log_keeps_the_latest_complaints(trt: Any) -> None:
    log = open_tensorrt().log
    assert log.text() == "TensorRT gives no reason"
    for number in range(MESSAGES + 3):
        log.logger.log(trt.ILogger.ERROR, f"<{number}>")
        log.logger.log(trt.ILogger.WARNING, "not this")
    log.logger.log(trt.ILogger.INTERNAL_ERROR, "last")
    assert log.text().startswith("<4>; <5>; ")
    assert log.text().endswith("; last")
    assert "not this" not in log.text()
    log.clear()
    assert log.text() == "TensorRT gives no reason"


@pytest.mark.parametrize("what", ["Builder", "Runtime"])
def test_a_driver_that_is_missing(what: str, trt: Any) -> None:
    opened = open_tensorrt()
    trt.faults.add(what)
    with pytest.raises(BackendError, match=r"does not start: .*klieg doctor"):
        getattr(opened, what.lower())()
