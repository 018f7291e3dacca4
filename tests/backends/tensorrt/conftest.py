"""A fake TensorRT, a fake GPU, and engines built with them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_gpu import FakeGpu
from fake_tensorrt import fake_tensorrt
from klieg.backends.tensorrt.building import build_plan
from klieg.backends.tensorrt.cache import EngineCache, Entry
from klieg.backends.tensorrt.manifest import Identity, Platform
from klieg.backends.tensorrt.profiles import EngineOptions
from klieg.model_file.explainer_file import ALWAYS, ExplainerFile, read_explainer

Put = Callable[..., Entry]


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = fake_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def context(gpu: FakeGpu) -> Iterator[None]:
    """The context of the GPU, for tests of what expects it to be active."""
    with gpu.activated():
        yield


@pytest.fixture
def file(small_explainer: Path) -> ExplainerFile:
    return read_explainer(small_explainer)


@pytest.fixture
def file_all(small_explainer_all: Path) -> ExplainerFile:
    return read_explainer(small_explainer_all)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def put(trt: Any, gpu: FakeGpu, file: ExplainerFile, cache: EngineCache) -> Put:
    """Build an engine and put it into the cache."""

    def build(
        *sizes: int,
        of: ExplainerFile | None = None,
        outputs: tuple[str, ...] = tuple(ALWAYS),
        on: Platform | None = None,
        **options: Any,
    ) -> Entry:
        chosen, source = EngineOptions(sizes, **options), of or file
        with gpu.activated():
            plan, _ = build_plan(source, outputs, chosen)
        platform = on or Platform.of(gpu, trt.__version__)
        identity = Identity(source.sha256, tuple(sorted(outputs)), chosen, platform)
        return cache.store(source, identity, plan, gpu.versions)

    return build
