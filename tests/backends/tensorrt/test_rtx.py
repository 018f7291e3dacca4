"""Plans built by TensorRT's own parser and builder: the RTX edition, which needs no GPU.

Its interface is that of TensorRT 11, its version numbers are its own. What it builds here is thrown
away: it cannot be run without a GPU.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import onnx
import pytest

import klieg.backends.tensorrt.bindings as bindings
from klieg.backends.tensorrt.building import build_plan
from klieg.backends.tensorrt.engine import Engine
from klieg.backends.tensorrt.profiles import EngineOptions
from klieg.errors import BackendError, EngineError
from klieg.model_file.explainer_file import ALWAYS, ExplainerFile, read_explainer

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

# RTX keeps the interface of the timing cache, marked as without effect.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")


@pytest.fixture(autouse=True)
def as_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setattr(bindings, "MAJORS", (int(rtx.__version__.split(".")[0]),))
    monkeypatch.setattr(bindings, "OLDEST", (0, 0))


@pytest.mark.parametrize("targets", [1, 3])
def test_several_profiles(targets: int, file: ExplainerFile) -> None:
    options = EngineOptions((32, 46, 61), max_batch=3, targets_per_image=targets)
    three, timing = build_plan(file, ALWAYS, options)
    one, _ = build_plan(file, ALWAYS, EngineOptions((32,), max_batch=3), timing_cache=timing)
    assert len(three) > len(one) > 10_000


def test_every_set_of_outputs(file_all: ExplainerFile) -> None:
    sizes = {}
    for outputs in (ALWAYS, {"logits"}, {"logits", "image_gradient"}, {"logits", "mask"}):
        options = EngineOptions((32,), max_batch=2, workspace_bytes=1 << 28)
        sizes[frozenset(outputs)] = len(build_plan(file_all, outputs, options)[0])
    assert min(sizes.values()) == sizes[frozenset({"logits"})]


def test_real_weights_at_the_sizes_of_cameras(lite0_explainer: Any) -> None:
    file = read_explainer(lite0_explainer)
    plan, _ = build_plan(file, ALWAYS, EngineOptions(file.info.scales[:2], max_batch=2))
    assert len(plan) > 1_000_000


def test_each_build_tells_its_own_complaints(file: ExplainerFile) -> None:
    for operator, other in (("Det", "Unique"), ("Unique", "Det")):
        model = onnx.load_model_from_string(file.data)
        node = next(node for node in model.graph.node if node.op_type == "Relu")
        node.op_type = operator
        broken = replace(file, data=model.SerializeToString())
        with pytest.raises(EngineError, match=operator) as caught:
            build_plan(broken, ALWAYS, EngineOptions((32,)))
        assert other not in str(caught.value)
        assert other not in bindings.open_tensorrt().log.text()
        assert operator in bindings.open_tensorrt().log.text()


def test_no_gpu_to_run_it(file: ExplainerFile) -> None:
    from fake_gpu import FakeGpu

    options = EngineOptions((32,))
    plan, _ = build_plan(file, ALWAYS, options)
    with pytest.raises(BackendError, match=r"cannot use the engine|does not start"):
        Engine(bindings.open_tensorrt(), plan, options, sorted(ALWAYS), FakeGpu())
