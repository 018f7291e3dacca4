"""Replayed batches against batches that run, on a CPU in a GPU's place that records launches."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pytest

from helpers.cpu_device import CpuDevice, recording
from klieg.errors import BackendError, DeviceError, NumericalError
from klieg.images.batch import Batch
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.pyramid import pyramid
from klieg.kernels.device import Workspace
from klieg.kernels.device.array import DeviceArray
from klieg.kernels.device.replay import PLANS
from klieg.methods.model import Maps, Model
from klieg.methods.running import DeviceRunner
from klieg.model_file.explainer_file import ExplainerInfo
from klieg.model_file.methods import METHODS

INFO = ExplainerInfo(
    layer="layer", input_size=16, scales=(16, 24), source_sha256="", mean=(0.5,) * 3, std=(1.0,) * 3
)


class Launching:
    """A classifier made of klieg's kernels: its grids are small copies of the image."""

    versions: ClassVar[dict[str, str]] = {}

    def __init__(self, device: Any, *, replays: bool = False) -> None:
        self.device, self.replays = device, replays
        self.kernels = Kernels(device)

    def enqueue(
        self,
        images: DeviceArray,
        targets: DeviceArray,
        outputs: Sequence[str],
        *,
        workspace: Workspace,
    ) -> list[DeviceArray]:
        batch, channels, size = images.shape[:3]
        kernels = self.kernels.within(workspace)
        small = pyramid(kernels, images, size // 4)
        middle = pyramid(kernels, images, 1)
        logits = DeviceArray(middle.pointer, (batch, channels), middle.dtype, middle)
        return [logits, small, small]

    def check(self, **_: Any) -> None:
        pass

    def run(self, *_: Any) -> list[np.ndarray]:
        raise AssertionError("everything stays on the device")

    def close(self) -> None:
        pass


CAMERAS, CASM = METHODS["cameras"], METHODS["casm"]


def running(device: Any, *, replays: bool = False) -> DeviceRunner:
    backend = Launching(device, replays=replays)
    return DeviceRunner(Model(backend, INFO), backend)


def batch(seed: int, count: int = 2, target: int = -1) -> Batch:
    images = np.random.default_rng(seed).uniform(0, 255, (count, 3, 16, 16)).astype(np.float32)
    return Batch.single(images, np.full(count, target))


def on_device(host: Batch, device: Any, *, dtype: type = np.float32) -> Batch:
    """Return a batch with its images on a device, behind 4 bytes of something else."""
    images = host.images if dtype == np.float32 else host.images.transpose(0, 2, 3, 1)
    given = images.astype(dtype)
    whole = DeviceArray.empty(device, (4 + given.nbytes,), np.uint8)
    array = DeviceArray(whole.pointer + 4, given.shape, given.dtype, whole)
    array.fill(device, given)
    return Batch(array, host.targets, host.image_index)


def assert_equal(got: Maps, truth: Maps) -> None:
    for name in ("raw", "maps", "logits", "targets", "scales_used", "degenerate"):
        np.testing.assert_array_equal(getattr(got, name), getattr(truth, name))


def test_replayed_batches_equal_those_that_run() -> None:
    device = CpuDevice(records=True)
    plain, replayed = running(CpuDevice()), running(device, replays=True)
    for seed in range(5):
        target = seed % 3 - 1
        truth = plain(batch(seed, target=target), CAMERAS, (16, 24))
        got = replayed(batch(seed, target=target), CAMERAS, (16, 24))
        assert_equal(got, truth)
        assert truth.raw.std() > 0
        assert device.graphs == max(0, seed - 1)


@pytest.mark.parametrize(
    ("owner", "dtype"),
    [([0, 1], np.float32), ([0, 0, 1], np.uint8)],
    ids=["one class", "several classes"],
)
def test_images_on_the_device_are_replayed(owner: list[int], dtype: type) -> None:
    device = CpuDevice(records=True)
    plain, replayed = running(CpuDevice()), running(device, replays=True)
    for seed in range(4):
        images = batch(seed).images.astype(dtype).astype(np.float32)  # whole numbers for uint8
        asked = Batch(images, np.arange(len(owner)), np.array(owner))
        given = on_device(asked, device, dtype=dtype)
        got = replayed(given, CAMERAS, (16, 24))
        assert_equal(got, plain(asked, CAMERAS, (16, 24)))
        # Whoever owns them may do with them what they like: the graph does not read here.
        given.images.fill(device, np.full(given.images.shape, 255, dtype))
        assert device.graphs == max(0, seed - 1)


def test_images_are_copied_before_the_graph_and_waited_for() -> None:
    class Noting(CpuDevice):
        noted: ClassVar[list[str]] = []

        def copy_across(self, source: Any, destination: Any) -> None:
            self.noted.append("copy")
            super().copy_across(source, destination)

        def copy_out(self, source: Any, destination: np.ndarray) -> None:
            assert destination.shape != (2, 3, 16, 16)
            super().copy_out(source, destination)

        def launch(self, *arguments: Any, **options: Any) -> None:
            self.noted.append("launch" if recording() is None else "record")
            super().launch(*arguments, **options)

        def synchronise(self) -> None:
            self.noted.append("wait")

    device = Noting(records=True)
    replayed = running(device, replays=True)
    for kinds in (
        ["launch", "wait"],  # read where they lie
        ["copy", "launch", "record", "wait"],
        ["copy", "launch", "wait"],
    ):
        given = on_device(batch(0), device)
        device.noted.clear()
        replayed(given, CAMERAS, (16, 24))
        assert [kind for kind, _ in groupby(device.noted)] == kinds
        assert device.noted.count("copy") == kinds.count("copy")


def test_images_from_both_places_share_a_graph_if_they_are_of_one_type() -> None:
    device = CpuDevice(records=True)
    plain, replayed = running(CpuDevice()), running(device, replays=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 16)).astype(np.float32)
    host = Batch.single(images, np.zeros(2, np.int64))  # [2, 16, 16, 16], channels first or last
    for count, dtype in enumerate((np.float32, np.uint8) * 3):
        truth = plain(on_device(host, CpuDevice(), dtype=dtype), CAMERAS, (16, 24))
        got = replayed(on_device(host, device, dtype=dtype), CAMERAS, (16, 24))
        assert_equal(got, truth)
        assert device.graphs == max(0, count - 3)
    assert_equal(replayed(host, CAMERAS, (16, 24)), plain(host, CAMERAS, (16, 24)))
    assert device.graphs == 3


def test_another_form_is_another_graph() -> None:
    device = CpuDevice(records=True)
    replayed = running(device, replays=True)
    for count, sizes in ((1, (16, 24)), (2, (16, 24)), (1, (16, 20)), (1, (16, 24))) * 3:
        assert replayed(batch(0, count), CAMERAS, sizes).maps.shape == (count, 16, 16)
    assert device.graphs == 4 + 1 + 1  # the first form comes six times, the others three times


def test_only_the_last_forms_are_kept() -> None:
    device = CpuDevice(records=True)
    replayed = running(device, replays=True)
    for _ in range(3):
        for count in range(1, PLANS + 2):
            replayed(batch(0, count), CAMERAS, (16,))
    assert device.graphs == 0


def test_a_failure_does_not_stay() -> None:
    device = CpuDevice(records=True)
    replayed = running(device, replays=True)
    bad = batch(0)
    bad.images[1, 0, 0, 0] = np.nan
    for _ in range(3):
        with pytest.raises(NumericalError, match="map 1 of the batch holds NaN"):
            replayed(bad, CAMERAS, (16, 24))
    truth = running(CpuDevice())(batch(7), CAMERAS, (16, 24))
    got = replayed(batch(7), CAMERAS, (16, 24))
    assert device.graphs == 2
    np.testing.assert_array_equal(got.maps, truth.maps)


@pytest.mark.parametrize(
    "moody",
    [
        lambda calls, workspace: DeviceArray.empty(workspace, (calls,), np.float32),
        lambda calls, workspace: DeviceArray.of(workspace, np.array([calls])),
    ],
    ids=["memory", "constants"],
)
def test_other_memory_or_constants_in_the_same_batch_are_an_error(moody: Any) -> None:
    class Moody(Launching):
        calls = 0

        def enqueue(self, *arguments: Any, workspace: Workspace) -> list[DeviceArray]:
            self.calls += 1
            moody(self.calls, workspace)
            return super().enqueue(*arguments, workspace=workspace)

    backend = Moody(CpuDevice(records=True), replays=True)
    runner = DeviceRunner(Model(backend, INFO), backend)
    runner(batch(0), CAMERAS, (16,))
    with pytest.raises(DeviceError, match="asked for different memory"):
        runner(batch(0), CAMERAS, (16,))


def test_a_form_too_large_to_keep_is_run_as_it_is() -> None:
    device = CpuDevice(records=True)
    replayed = running(device, replays=True)
    kept = [replayed(batch(0, 1), CAMERAS, (16,)) for _ in range(3)]
    assert device.graphs == 1
    device.limit = device.held + 1_600_000  # one scale after the other fits, all together do not
    sizes = (16, 64, 80, 96, 112)
    for seed in range(4):
        truth = running(CpuDevice())(batch(seed), CAMERAS, sizes)
        got = replayed(batch(seed), CAMERAS, sizes)
        np.testing.assert_array_equal(got.maps, truth.maps)
    assert device.graphs == 1
    again = replayed(batch(0, 1), CAMERAS, (16,))
    np.testing.assert_array_equal(again.maps, kept[0].maps)


def test_closing_frees_what_is_kept() -> None:
    device = CpuDevice(records=True)
    replayed = running(device, replays=True)
    for _ in range(3):
        replayed(batch(0), CAMERAS, (16, 24))
    replayed.close()
    with pytest.raises(BackendError, match="closed"):
        replayed(batch(0), CAMERAS, (16, 24))
    assert device.graphs == 1


def test_a_batch_waits_until_the_results_of_the_one_before_are_copied() -> None:
    others: list[Future[Any]] = []

    class Interrupted(CpuDevice):
        def synchronise(self) -> None:
            """Let another thread ask for a batch while results lie there, not copied yet."""
            if not others and self.graphs == 1:
                others.append(pool.submit(replayed, batch(2), CAMERAS, (16, 24)))
                wait(others, timeout=0.5)

    device = Interrupted(records=True)
    replayed = running(device, replays=True)
    for _ in range(2):
        replayed(batch(0), CAMERAS, (16, 24))  # run as it is, and recorded
    with ThreadPoolExecutor(1) as pool:
        got = {1: replayed(batch(1), CAMERAS, (16, 24))}
        got[2] = others[0].result()
    assert device.graphs == 2
    plain = running(CpuDevice())
    for seed, maps in got.items():
        assert_equal(maps, plain(batch(seed), CAMERAS, (16, 24)))
