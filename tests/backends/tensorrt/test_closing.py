"""The end of a backend, also of one whose GPU is lost, and threads that share one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from fake_gpu import FakeGpu
from fake_tensorrt import value
from klieg.backends.tensorrt.backend import TensorRTBackend
from klieg.backends.tensorrt.cache import EngineCache, Entry
from klieg.errors import BackendError, DeviceError, NumericalError
from klieg.model_file.explainer_file import ExplainerFile

Put = Callable[..., Entry]


@pytest.fixture
def opened(put: Put, gpu: FakeGpu, file: ExplainerFile, cache: EngineCache) -> TensorRTBackend:
    put(32, 48, max_batch=1)
    return TensorRTBackend(file, device=gpu, engines=cache.folder)


def run(backend: TensorRTBackend) -> None:
    backend.run(np.zeros((1, 3, 32, 32), np.float32), np.zeros(1, np.int64), ["logits"])


def test_closed(opened: TensorRTBackend, gpu: FakeGpu) -> None:
    run(opened)
    opened.close()
    opened.close()
    assert gpu.synchronised == 1  # before the engines go
    assert not gpu.closed
    with pytest.raises(BackendError, match="closed"):
        run(opened)


def test_a_gpu_lost_in_the_middle_of_a_batch(opened: TensorRTBackend, gpu: FakeGpu) -> None:
    def lose() -> None:
        with closing(opened):
            run(opened)
            gpu.lost = True
            raise NumericalError("the earlier one")

    with pytest.raises(NumericalError, match="the earlier one"):
        lose()
    assert not opened._engines
    opened.close()
    gpu.lost = False
    with pytest.raises(BackendError, match="closed"):
        run(opened)


def test_a_gpu_that_is_found_lost_when_closing(opened: TensorRTBackend, gpu: FakeGpu) -> None:
    run(opened)
    (engine,) = map(weakref.ref, opened._engines.values())
    gpu.lost = True
    with pytest.raises(DeviceError, match="lost"):
        opened.close()
    assert engine() is None
    opened.close()


def test_one_thread_at_a_time(opened: TensorRTBackend, trt: Any) -> None:
    failures = []

    def work(number: int) -> None:
        try:
            for _ in range(20):
                size = 32 + 16 * (number % 2)
                batch = np.full((3, 3, size, size), number, np.float32)
                (logits,) = opened.run(batch, np.zeros(3, np.int64), ["logits"])
                assert (logits == value("logits", number, 0, per_target=False)).all()
        except BaseException as error:  # noqa: BLE001  # told to the test below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert trt.most_inside == 1
    assert len(trt.plans) == 1
