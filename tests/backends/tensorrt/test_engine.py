"""A plan at work: which calls in which order, and what becomes of each that fails."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from fake_gpu import STREAM, FakeGpu
from fake_tensorrt import ALL_OUTPUTS, SCRATCH, names, value
from klieg.backends.tensorrt.bindings import open_tensorrt
from klieg.backends.tensorrt.building import build_plan
from klieg.backends.tensorrt.engine import Engine
from klieg.backends.tensorrt.profiles import EngineOptions
from klieg.errors import BackendError, DeviceError, DeviceMemoryError, EngineError
from klieg.kernels.device.array import DeviceArray
from klieg.model_file.explainer_file import ALWAYS, ExplainerFile

OUTPUTS = sorted(ALWAYS)
OPTIONS = EngineOptions((32, 48), max_batch=4, targets_per_image=2)


pytestmark = pytest.mark.usefixtures("context")


@pytest.fixture
def plan(trt: Any, file: ExplainerFile) -> bytes:
    return build_plan(file, OUTPUTS, OPTIONS)[0]


def opened(plan: bytes, gpu: FakeGpu, options: EngineOptions = OPTIONS) -> Engine:
    return Engine(open_tensorrt(), plan, options, OUTPUTS, gpu)


def arrays(
    gpu: FakeGpu, batch: int = 1, size: int = 32, each: int = 1
) -> tuple[DeviceArray, DeviceArray]:
    images = np.arange(batch, dtype=np.float32)[:, None, None, None] * 8
    targets = np.arange(batch * each, dtype=np.int64) % 5
    full = np.broadcast_to(images, (batch, 3, size, size))
    return DeviceArray.of(gpu, full), DeviceArray.of(gpu, targets)


def test_a_pass(plan: bytes, gpu: FakeGpu, trt: Any) -> None:
    engine = opened(plan, gpu)
    images, targets = arrays(gpu, batch=3, each=2)
    trt.calls.clear()
    gradient, logits = engine.enqueue(images, targets, ["gradient", "logits"], workspace=gpu)
    assert gradient.shape == (6, 16, 1, 1)
    assert logits.shape == (3, 5)
    assert gradient.dtype == logits.dtype == np.float32
    for row in range(6):
        expected = value("gradient", 8 * (row // 2), row % 5, per_target=True)
        np.testing.assert_array_equal(gradient.to_host(gpu)[row], expected)
    for row in range(3):
        expected = value("logits", 8 * row, 0, per_target=False)
        np.testing.assert_array_equal(logits.to_host(gpu)[row], expected)
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert trt.calls[0] == ("create_execution_context", strategy)
    order = [name for name, _ in itertools.groupby(names(trt))]
    assert order[:9] == [
        "create_execution_context",
        "set_optimization_profile_async",
        "set_device_memory",
        "set_input_shape",
        "get_tensor_shape",
        "set_tensor_address",
        "execute_async_v3",
        "get_tensor_shape",  # the fake looks at them itself
    ]


def test_one_context_per_size_and_one_scratch_for_all(plan: bytes, gpu: FakeGpu, trt: Any) -> None:
    engine = opened(plan, gpu)
    for size in (48, 32, 48, 32):
        engine.enqueue(*arrays(gpu, size=size), ["logits"], workspace=gpu)
    assert names(trt).count("create_execution_context") == 2
    chosen = [call[1] for call in trt.calls if call[0] == "set_optimization_profile_async"]
    assert chosen == [1, 0]
    memory = {call[1:] for call in trt.calls if call[0] == "set_device_memory"}
    assert len(memory) == 1
    assert memory.pop()[1] == SCRATCH
    runs = [call[1:] for call in trt.calls if call[0] == "execute_async_v3"]
    assert runs == [(index, (1, 3, size, size)) for index, size in ((1, 48), (0, 32)) * 2]


def test_outputs_keep_their_memory(plan: bytes, gpu: FakeGpu) -> None:
    engine = opened(plan, gpu)
    held = [engine.enqueue(*arrays(gpu), ["activation"], workspace=gpu)[0] for _ in range(3)]
    assert len({array.pointer for array in held}) == 3


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("deserialize_cuda_engine", EngineError, "cannot use the engine on NVIDIA Test: deserial"),
        ("get_tensor_dtype", EngineError, r"'activation' as DataType.HALF on the GPU, expected"),
        ("get_tensor_location", EngineError, "in the host's memory"),
        ("Runtime", BackendError, "does not start"),
    ],
)
def test_failures_to_open(
    fault: str, error: type[Exception], message: str, plan: bytes, gpu: FakeGpu, trt: Any
) -> None:
    trt.faults.add(fault)
    with pytest.raises(error, match=message):
        opened(plan, gpu)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("create_execution_context", DeviceError, "could not make a context for 32 pixels"),
        ("set_optimization_profile_async", DeviceError, "could not choose profile 0"),
        ("set_input_shape", DeviceError, "could not set the shape of 'image'"),
        ("get_tensor_shape", EngineError, "does not know the shape of 'activation'"),
        ("set_tensor_address", DeviceError, "could not set the address of 'image'"),
        ("execute_async_v3", DeviceError, "could not enqueue a pass"),
    ],
)
def test_failures_to_run(
    fault: str, error: type[Exception], message: str, plan: bytes, gpu: FakeGpu, trt: Any
) -> None:
    engine = opened(plan, gpu)
    trt.faults.add(fault)
    with pytest.raises(error, match=message) as caught:
        engine.enqueue(*arrays(gpu), ["logits"], workspace=gpu)
    if error is DeviceError:
        assert f"{fault} went wrong" in str(caught.value)
    trt.faults = {"execute_async_v3"}
    with pytest.raises(DeviceError) as later:
        engine.enqueue(*arrays(gpu), ["logits"], workspace=gpu)
    if fault != "execute_async_v3":
        assert f"{fault} went wrong" not in str(later.value)  # complaints are those of this pass
    trt.faults.clear()
    engine.enqueue(*arrays(gpu), ["logits"], workspace=gpu)  # nothing half made is left


MEMORY = (
    "Error Code 1: Cuda Runtime (out of memory)",
    "Error Code 2: OutOfMemory (no further information)",
    "cudaErrorMemoryAllocation",
)


@pytest.mark.parametrize("complaint", MEMORY)
@pytest.mark.parametrize(
    "fault", ["deserialize_cuda_engine", "create_execution_context", "execute_async_v3"]
)
def test_tensorrt_finds_no_memory(
    fault: str, complaint: str, plan: bytes, gpu: FakeGpu, trt: Any
) -> None:
    trt.faults, trt.complaint = {fault}, complaint
    with pytest.raises(DeviceMemoryError, match="; use smaller batches, or free memory"):
        opened(plan, gpu).enqueue(*arrays(gpu), ["logits"], workspace=gpu)


def test_an_engine_that_is_not_what_it_is_said_to_be(plan: bytes, gpu: FakeGpu) -> None:
    with pytest.raises(EngineError, match=r"2 profiles, expected .* and 1: build it again"):
        opened(plan, gpu, EngineOptions((32,)))
    with pytest.raises(EngineError, match=r"\['activation', 'gradient', .*expected \['image'"):
        Engine(open_tensorrt(), plan, OPTIONS, ["logits"], gpu)


def test_memory_is_full(plan: bytes, gpu: FakeGpu) -> None:
    engine = opened(plan, gpu)
    inputs = arrays(gpu)
    gpu.free = 100
    with pytest.raises(DeviceMemoryError):
        engine.enqueue(*inputs, ["logits"], workspace=gpu)
    with pytest.raises(DeviceMemoryError):
        opened(plan, gpu)


@pytest.mark.parametrize(
    ("batch", "size", "each"), [(5, 32, 1), (1, 40, 1), (1, 32, 3), (0, 32, 1), (2, 32, 0)]
)
def test_shapes_that_no_profile_holds(
    batch: int, size: int, each: int, plan: bytes, gpu: FakeGpu, trt: Any
) -> None:
    message = "1 to 4 images of 32, 48 pixels, 2 classes each: build another one"
    with pytest.raises(EngineError, match=message):
        opened(plan, gpu).enqueue(*arrays(gpu, batch, size, each), ["logits"], workspace=gpu)
    assert "set_input_shape" not in names(trt)


def test_arrays_that_tensorrt_would_misread(plan: bytes, gpu: FakeGpu) -> None:
    engine = opened(plan, gpu)
    images, targets = arrays(gpu)
    whole, half = np.dtype(np.int32), np.dtype(np.float16)
    for wrong in (
        (DeviceArray(images.pointer, images.shape, half, images), targets),
        (DeviceArray(images.pointer + 4, images.shape, images.dtype, images), targets),
        (DeviceArray(images.pointer, images.shape[1:], images.dtype, images), targets),
        (images, DeviceArray(targets.pointer, targets.shape, whole, targets)),
        (images, DeviceArray(targets.pointer, (1, 1), targets.dtype, targets)),
    ):
        with pytest.raises(EngineError, match=r"expected .* at a multiple of 256 bytes"):
            engine.enqueue(*wrong, ["logits"], workspace=gpu)


def test_the_fake_knows_all_outputs(file_all: ExplainerFile) -> None:
    assert set(ALL_OUTPUTS) == file_all.outputs
    assert STREAM
