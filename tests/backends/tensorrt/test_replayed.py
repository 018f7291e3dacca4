"""Batches recorded as CUDA graphs: TensorRT wants a recorded context never to be changed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fake_gpu import FakeGpu
from fake_tensorrt import names
from klieg import Explainer, TensorRT
from klieg.backends.tensorrt.backend import TensorRTBackend
from klieg.backends.tensorrt.cache import EngineCache, Entry
from klieg.cli import main
from klieg.kernels.device import opening
from klieg.kernels.device.replay import PLANS
from klieg.model_file.explainer_file import read_explainer

Put = Callable[..., Entry]
SIZES = (32, 46, 61)


@pytest.fixture
def explainers(
    put: Put, gpu: FakeGpu, cache: EngineCache, small_explainer: Path
) -> dict[bool, Explainer]:
    """One that does not replay and one that does."""
    put(*SIZES, max_batch=PLANS + 1)
    return {
        replay: Explainer(
            small_explainer, backend=TensorRT(device=gpu, engines=cache.folder, replay=replay)
        )
        for replay in (False, True)
    }


@pytest.fixture
def explain(explainers: dict[bool, Explainer]) -> Callable[..., np.ndarray]:
    """Explain some photos, replayed or not; return maps and logits [B, S * S + classes]."""

    def run(seed: int, *, count: int, replay: bool, sizes: Sequence[int] = SIZES) -> np.ndarray:
        shape = (count, 32, 32, 3)
        photos = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        found = explainers[replay].explain(photos, scales=sizes, target=1)
        return np.hstack([found.raw.reshape(count, -1), found.logits])

    return run


def test_recorded_contexts_are_left_alone(
    explain: Callable[..., np.ndarray], gpu: FakeGpu, trt: Any
) -> None:
    for seed in range(4):  # of each form: as it is, recorded, replayed twice
        for count, sizes in ((2, SIZES), (3, SIZES), (2, SIZES[:2])):
            got = explain(seed, count=count, replay=True, sizes=sizes)
            truth = explain(seed, count=count, replay=False, sizes=sizes)
            np.testing.assert_array_equal(got, truth)
    assert gpu.graphs == 2 * 3
    # Those of ordinary passes of two explainers, then one per layout and size.
    assert names(trt).count("create_execution_context") == 2 * 3 + 3 + 3 + 2


def test_contexts_die_with_their_layout(
    explain: Callable[..., np.ndarray], explainers: dict[bool, Explainer]
) -> None:
    for count in range(1, PLANS + 2):
        for _ in range(2):
            explain(0, count=count, replay=True, sizes=SIZES[:1])
    backend = explainers[True].backend
    assert isinstance(backend, TensorRTBackend)
    (engine,) = backend._engines.values()
    assert len(engine._contexts) == 1 + PLANS  # those of passes that were run as they are


def test_bench_measures_the_replay(
    put: Put,
    gpu: FakeGpu,
    cache: EngineCache,
    small_explainer: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(*read_explainer(small_explainer).info.scales, max_batch=2)
    monkeypatch.setattr(opening, "open_device", lambda _: gpu)
    result = CliRunner().invoke(
        main,
        [
            "bench",
            str(small_explainer),
            "--backend",
            "tensorrt",
            "--device",
            "cuda.core",
            "--engines",
            str(cache.folder),
            "--repeat",
            "1",
            "--batch-size",
            "2",
        ],
    )
    assert result.exit_code == 0, result.output
    rows = [line[:32].rstrip() for line in result.output.splitlines()]
    assert "CAMERAS, the same replayed" in rows
    refused = CliRunner().invoke(
        main,
        [
            "bench",
            str(small_explainer),
            "--backend",
            "tensorrt",
            "--device",
            "cuda.core",
            "--engines",
            str(cache.folder),
            "--batch-size",
            "3",
        ],
    )
    assert refused.exit_code == 1
    assert "klieg build" in refused.stderr
