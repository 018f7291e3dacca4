"""Launches recorded into graphs."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from klieg.errors import DeviceError
from klieg.kernels.device.opening import open_device


@pytest.mark.parametrize("package", ["cuda.core"], indirect=True)
class TestGraphs:
    def test_launches_are_recorded_and_repeated(self, driver, device, kernel):
        used, other = device.allocate(64), device.allocate(64)
        driver.record.clear()
        with device.capture() as graph:
            device.launch(kernel, (1, 1, 1), 1, [np.uint64(used.pointer + 32)])
            with pytest.raises(DeviceError, match="not recorded yet"):
                graph.launch()
        graph.launch()
        graph.launch()
        assert driver.names() == ["begin", "launch", "end", "graph", "graph"]
        assert ("begin", "thread_local", device.stream) in driver.record
        pointer = used.pointer
        del used, other
        assert list(driver.memory) == [pointer]  # only what the graph uses is kept
        del graph
        assert driver.memory == {}

    def test_only_launches_are_recorded(self, driver, device):
        buffer = device.allocate(4)
        with device.capture():
            for call in (
                lambda: device.allocate(4),
                lambda: device.copy_in(np.zeros(1, np.float32), buffer),
                lambda: device.copy_out(buffer, np.zeros(1, np.float32)),
                lambda: device.copy_across(buffer, buffer),
                device.synchronise,
                lambda: device.capture().__enter__(),
            ):
                with pytest.raises(DeviceError, match=r"is recording, and .* cannot be recorded"):
                    call()
        device.synchronise()

    def test_memory_is_not_freed_while_recording(self, driver, device):
        buffer = device.allocate(4)
        with device.capture():
            del buffer
            assert "free" not in driver.names()

    def test_a_broken_recording_ends_it(self, driver, device, kernel):
        with pytest.raises(ZeroDivisionError), device.capture():
            raise ZeroDivisionError
        assert driver.names() == ["begin", "end"]
        device.synchronise()

    def test_another_thread_waits(self, driver, device, kernel):
        thread = threading.Thread(target=device.launch, args=(kernel, (1, 1, 1), 1, []))
        with device.capture():
            thread.start()
            thread.join(timeout=0.05)
            assert thread.is_alive()
        thread.join()
        assert driver.names()[-3:] == ["begin", "end", "launch"]

    def test_no_graphs_on_the_legacy_stream(self, driver, package):
        assert not open_device(package, stream=0).records
        assert open_device(package, stream=0x7000).records


@pytest.mark.parametrize("package", ["pycuda"], indirect=True)
def test_pycuda_has_no_graphs(driver, device):
    with pytest.raises(DeviceError, match=r"pycuda cannot record.*open 'cuda.core'"):
        device.capture().__enter__()
    device.synchronise()
