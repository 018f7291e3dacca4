"""From host arrays to host arrays: which engine is taken, and what is said if there is none."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_gpu import FakeGpu
from fake_tensorrt import names, value
from klieg.backends import DeviceBackend
from klieg.backends.tensorrt.backend import TensorRTBackend
from klieg.backends.tensorrt.cache import EngineCache, Entry
from klieg.backends.tensorrt.manifest import Platform
from klieg.cli.build import build
from klieg.errors import (
    BackendError,
    EngineError,
    ImageError,
    TargetError,
)
from klieg.images.batch import Batch
from klieg.kernels.device.array import DeviceArray
from klieg.methods.cameras import cameras
from klieg.methods.model import Model
from klieg.model_file.explainer_file import ExplainerFile
from klieg.model_file.onnx_file import TensorType

Put = Callable[..., Entry]
Open = Callable[..., TensorRTBackend]
LAYER = ["logits", "activation", "gradient"]


@pytest.fixture
def backend(gpu: FakeGpu, file: ExplainerFile, cache: EngineCache) -> Open:
    def make(of: ExplainerFile | None = None, device: FakeGpu | None = None) -> TensorRTBackend:
        return TensorRTBackend(of or file, device=device or gpu, engines=cache.folder)

    return make


def images(batch: int, size: int = 32) -> np.ndarray:
    values = np.arange(batch, dtype=np.float32)[:, None, None, None] * 8
    return np.ascontiguousarray(np.broadcast_to(values, (batch, 3, size, size)))


def advised(error: EngineError) -> dict[str, Any]:
    """Return what the command line of `klieg build` makes of the advice in an error."""
    words = shlex.split(str(error).rpartition("build it here: ")[2])
    assert words[:2] == ["klieg", "build"]
    parsed: dict[str, Any] = build.make_context("build", words[2:]).params
    return parsed


def test_it_is_a_device_backend(put: Put, backend: Open, gpu: FakeGpu) -> None:
    put(32)
    opened: DeviceBackend = backend()
    assert opened.device is gpu
    assert opened.versions == {
        "cuda driver": "13.0",
        "tensorrt": "10.16.1.11",
        "gpu": "NVIDIA Test",
    }


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 4, 7, 9])
def test_large_batches_run_in_parts(
    batch: int, each: int, put: Put, backend: Open, trt: Any
) -> None:
    put(32, max_batch=3, targets_per_image=2)
    targets = np.arange(batch * each, dtype=np.int64) % 5 - 1
    logits, gradient = backend().run(images(batch), targets, ["logits", "gradient"])
    assert logits.shape == (batch, 5)
    assert gradient.shape == (batch * each, 16, 1, 1)
    for row in range(batch):
        assert logits[row, 0] == value("logits", 8 * row, 0, per_target=False)
    for row, target in enumerate(targets):
        assert gradient[row, 0] == value("gradient", 8 * (row // each), target, per_target=True)
    assert names(trt).count("execute_async_v3") == -(-batch // 3)


def test_arrays_stay_on_the_device(put: Put, backend: Open, gpu: FakeGpu) -> None:
    put(32)
    inputs = (DeviceArray.of(gpu, images(2)), DeviceArray.of(gpu, np.array([1, 2])))
    (gradient,) = backend().enqueue(*inputs, ["gradient"], workspace=gpu)
    assert gradient.to_host(gpu)[1, 0] == value("gradient", 8, 2, per_target=True)


def test_enqueue_refuses_what_run_splits(put: Put, backend: Open, gpu: FakeGpu) -> None:
    put(32, max_batch=2)
    inputs = (DeviceArray.of(gpu, images(3)), DeviceArray.of(gpu, np.zeros(3, np.int64)))
    with pytest.raises(EngineError, match="of 1 to 3 images of 32 pixels") as caught:
        backend().enqueue(*inputs, LAYER, workspace=gpu)
    assert "pass at most 2 at once with batch_size=2 (--batch-size 2 of a" in str(caught.value)
    assert "counts as an image" not in str(caught.value)
    assert advised(caught.value)["batch"] >= 3


def test_classes_of_a_file_that_takes_one_per_image_count_as_images(
    put: Put, gpu: FakeGpu, file: ExplainerFile, cache: EngineCache
) -> None:
    put(32, max_batch=2)
    target = TensorType("int64", ("batch",))
    inputs = {**file.facts.inputs, "target": target}
    single = dataclasses.replace(file, facts=dataclasses.replace(file.facts, inputs=inputs))
    opened = TensorRTBackend(single, device=gpu, engines=cache.folder)
    with pytest.raises(EngineError, match="each class of an image counts as an image"):
        opened.check(images=3, sizes=(32,), targets=1, outputs=LAYER)


def test_all_sizes_are_checked_at_once(put: Put, backend: Open, trt: Any) -> None:
    put(32)
    put(48)
    opened = backend()
    opened.check(images=2, sizes=(32, 48), targets=1, outputs=LAYER)
    with pytest.raises(EngineError, match="of 1 to 2 images of 32, 40, 56 pixels") as caught:
        opened.check(images=2, sizes=(32, 56, 40), targets=1, outputs=LAYER)
    assert set(advised(caught.value)["scales"]) >= {32, 40, 56}
    assert "batch_size" not in str(caught.value)
    assert trt.plans == []
    opened.close()
    with pytest.raises(BackendError, match="closed"):
        opened.check(images=2, sizes=(32,), targets=1, outputs=LAYER)


def test_the_closest_engine_is_taken(
    put: Put, backend: Open, file_all: ExplainerFile, trt: Any
) -> None:
    put(32, 48, of=file_all)
    put(32, of=file_all, max_batch=2)
    put(32, of=file_all, outputs=("logits",), max_batch=2)
    put(32, of=file_all, outputs=("logits", "mask"), max_batch=16)
    opened = backend(file_all)
    for size, batch, outputs, model in (
        (32, 4, ["logits"], 2),  # the engine of the logits alone, though its batches are smaller
        (48, 4, ["logits"], 1),  # only the first one holds this size
        (32, 8, ["logits", "activation"], 1),  # the larger batch of two
        (32, 16, ["mask"], 1),
        (32, 16, ["logits", "mask"], 1),
    ):
        trt.calls.clear()
        opened.run(images(batch, size), np.zeros(batch, np.int64), outputs)
        assert names(trt).count("execute_async_v3") == model, (size, outputs)
    assert len(trt.plans) == 3  # each when it was first needed


def test_cameras_through_it(put: Put, backend: Open, file: ExplainerFile, trt: Any) -> None:
    sizes = file.info.scales[:3]
    put(*sizes)
    model = Model(backend(), file.info, several_targets=file.several_targets)
    maps = cameras(model, Batch.single(images(2), np.array([1, 4])), sizes)
    assert maps.raw.shape == (2, 32, 32)
    assert np.isfinite(maps.raw).all()
    assert maps.scales_used.all()
    runs = [call[2] for call in trt.calls if call[0] == "execute_async_v3"]
    assert runs == [(2, 3, size, size) for size in (sizes[0], sizes[2], sizes[1])]


def test_no_engine_at_all(backend: Open, trt: Any, file: ExplainerFile, cache: EngineCache) -> None:
    with pytest.raises(EngineError, match=f"no engine of {re.escape(str(file.path))}") as caught:
        backend()
    command = advised(caught.value)
    assert command["explainer"] == file.path
    assert command["methods"] == ["cameras"]
    assert command["scales"] == list(file.info.scales)
    assert command["engines"] == cache.folder


def test_the_default_folder_is_not_spelled_out(
    trt: Any, gpu: FakeGpu, file: ExplainerFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLIEG_ENGINES", str(tmp_path))
    with pytest.raises(EngineError) as caught:
        TensorRTBackend(file, device=gpu)
    assert advised(caught.value)["engines"] is None


def test_the_second_gpu_is_spelled_out(backend: Open, trt: Any, gpu: FakeGpu) -> None:
    gpu.label = "pycuda:1"
    with pytest.raises(EngineError) as caught:
        backend()
    assert advised(caught.value)["device"] == "pycuda:1"


@pytest.mark.parametrize(
    ("platform", "told"),
    [
        (Platform("NVIDIA Other", (9, 0), "10.16.1.11"), "built for NVIDIA Other"),
        (Platform("NVIDIA Test", (9, 0), "11.4.0.106"), "with TensorRT 11.4.0.106, this is"),
    ],
)
def test_engines_of_another_platform(
    platform: Platform, told: str, put: Put, backend: Open, trt: Any
) -> None:
    put(32, on=platform)
    with pytest.raises(EngineError, match=told) as caught:
        backend()
    assert "this is NVIDIA Test (compute capability 9.0) with TensorRT 10" in str(caught.value)
    assert trt.plans == []


def test_engines_of_another_explainer(
    put: Put, backend: Open, file: ExplainerFile, file_all: ExplainerFile, trt: Any
) -> None:
    put(32)  # of the same name: the model was exported again
    with pytest.raises(EngineError, match=f"SHA-256 {file.sha256}.*{file_all.sha256}"):
        backend(file_all)
    assert trt.plans == []


@pytest.mark.parametrize(
    ("size", "each", "outputs", "expected"),
    [
        (40, 1, LAYER, {"methods": ["cameras"], "scales": [32, 40, 48], "targets": 1}),
        (32, 3, LAYER, {"methods": ["cameras"], "scales": [32, 48], "targets": 3}),
        (40, 1, ["image_gradient"], {"methods": ["saliency"], "scales": [40]}),
        (40, 1, ["logits"], {"methods": ["rise"], "scales": [40]}),
        (40, 1, ["mask"], {"methods": ["casm"], "scales": [40]}),
        (32, 1, ["logits", "contrast"], {"methods": ["contrastive_excitation"], "scales": [32]}),
    ],
)
def test_a_missing_engine_says_how_to_build_it(
    size: int,
    each: int,
    outputs: list[str],
    expected: dict[str, Any],
    put: Put,
    backend: Open,
    file_all: ExplainerFile,
    trt: Any,
) -> None:
    put(32, 48, of=file_all, max_batch=16, workspace_bytes=3 << 20)
    with pytest.raises(EngineError) as caught:
        backend(file_all).run(images(1, size), np.zeros(each, np.int64), outputs)
    assert "1 to 16 images of 32, 48 pixels, 1 class each" in str(caught.value)
    command = advised(caught.value)
    assert {name: command[name] for name in expected} == expected
    if set(outputs) <= set(LAYER):
        assert command["batch"] == 16
        assert command["workspace"] == 3
    assert trt.plans == []


def test_outputs_that_no_method_needs_together(
    put: Put, backend: Open, file_all: ExplainerFile
) -> None:
    put(32, of=file_all)
    with pytest.raises(EngineError, match="ask for them in several passes"):
        backend(file_all).run(images(1), np.zeros(1, np.int64), ["mask", "gradient"])


def test_impossible_questions(put: Put, backend: Open) -> None:
    put(32)
    opened = backend()
    with pytest.raises(TargetError, match=r"\[3\] for 2 images"):
        opened.run(images(2), np.zeros(3, np.int64), LAYER)
    with pytest.raises(TargetError):
        opened.run(images(2), np.zeros(0, np.int64), LAYER)
    with pytest.raises(ImageError, match=r"\[1, 3, 32, 48\]"):
        opened.run(np.zeros((1, 3, 32, 48), np.float32), np.zeros(1, np.int64), LAYER)
    with pytest.raises(ImageError):
        opened.run(images(0), np.zeros(0, np.int64), LAYER)
