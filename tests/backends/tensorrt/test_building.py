"""From options to profiles, from a file to a plan."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from fake_tensorrt import names
from klieg.backends.tensorrt.building import build_plan
from klieg.backends.tensorrt.profiles import EngineOptions, profiles
from klieg.errors import BackendError, EngineError, OptionError
from klieg.model_file.explainer_file import ALWAYS, ExplainerFile
from klieg.model_file.onnx_file import TensorType

pytestmark = pytest.mark.usefixtures("context")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ()}, "sizes are"),
        ({"sizes": (64, 32)}, "ascending"),
        ({"sizes": (32, 32)}, "ascending"),
        ({"sizes": (0,)}, "sizes are"),
        ({"sizes": (True, 2)}, "sizes are"),
        ({"sizes": ("32",)}, "sizes are"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"max_batch": 1.5}, "max_batch is 1.5"),
        ({"targets_per_image": 0}, "targets_per_image is 0"),
        ({"workspace_bytes": 0}, "workspace_bytes is 0"),
    ],
)
def test_impossible_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        EngineOptions(**({"sizes": (32,)} | changes))


def test_one_profile_per_size(file: ExplainerFile) -> None:
    assert file.several_targets
    small, large = profiles(file, EngineOptions((32, 46), max_batch=4, targets_per_image=3))
    assert small == {
        "image": ((1, 3, 32, 32), (4, 3, 32, 32), (4, 3, 32, 32)),
        "target": ((1,), (12,), (12,)),
    }
    assert large["image"] == ((1, 3, 46, 46), (4, 3, 46, 46), (4, 3, 46, 46))


def with_inputs(file: ExplainerFile, image: TensorType, target: TensorType) -> ExplainerFile:
    facts = dataclasses.replace(file.facts, inputs={"image": image, "target": target})
    return dataclasses.replace(file, facts=facts)


def test_a_file_of_one_size(file: ExplainerFile) -> None:
    image = TensorType("float32", ("batch", 3, 32, 32))
    fixed = with_inputs(file, image, file.facts.inputs["target"])
    assert len(profiles(fixed, EngineOptions((32,)))) == 1
    with pytest.raises(OptionError, match="32 x 32 pixels only"):
        profiles(fixed, EngineOptions((32, 46)))


def test_a_file_of_one_class_per_image(file: ExplainerFile) -> None:
    target = TensorType("int64", ("batch",))
    single = with_inputs(file, file.facts.inputs["image"], target)
    assert profiles(single, EngineOptions((32,)))[0]["target"] == ((1,), (8,), (8,))
    with pytest.raises(OptionError, match="one class per image"):
        profiles(single, EngineOptions((32,), targets_per_image=2))


def test_a_plan(trt: Any, file_all: ExplainerFile) -> None:
    options = EngineOptions((32, 46), max_batch=2, workspace_bytes=5 << 20)
    plan, timing = build_plan(file_all, ["logits", "image_gradient"], options, timing_cache=b"old+")
    outputs, built = json.loads(plan)
    assert set(outputs) == {"logits", "image_gradient"}
    assert [profile["image"][2] for profile in built] == [[2, 3, 32, 32], [2, 3, 46, 46]]
    assert timing == b"old+measured"
    assert ("create_network", 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) in trt.calls
    assert ("clear_flag", trt.BuilderFlag.TF32) in trt.calls
    assert ("set_memory_pool_limit", trt.MemoryPoolType.WORKSPACE, 5 << 20) in trt.calls
    assert ("set_timing_cache", False) in trt.calls
    parsed = [call[1] for call in trt.calls if call[0] == "parse"]
    assert parsed[0] < len(file_all.data)  # cut to the outputs


def test_all_memory_unless_told_otherwise(trt: Any, file: ExplainerFile) -> None:
    build_plan(file, ALWAYS, EngineOptions((32,)))
    assert "set_memory_pool_limit" not in names(trt)
    assert ("create_timing_cache", b"") in trt.calls


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("parse", r"TensorRT 10.16.1.11 cannot read .*'node_7' \(Det\): no such operator.*inspect"),
        ("build_serialized_network", "build_serialized_network went wrong.*smaller batch"),
        ("add_optimization_profile", "refuses the shapes .*went wrong"),
        ("set_shape", "refuses the shapes .*do not fit"),
        ("create_timing_cache", "has no timing cache: create_timing_cache went wrong"),
        ("set_timing_cache", "has no timing cache"),
        ("get_timing_cache", "lost its timing cache"),
    ],
)
def test_failures(fault: str, message: str, trt: Any, file: ExplainerFile) -> None:
    trt.faults.add(fault)
    with pytest.raises(EngineError, match=message) as caught:
        build_plan(file, ALWAYS, EngineOptions((32,)))
    assert "no complaint" not in str(caught.value)
    assert str(caught.value).count("node_7") <= 3


def test_a_timing_cache_of_another_gpu(trt: Any, file: ExplainerFile) -> None:
    with pytest.warns(UserWarning, match="refuses the timing cache.*everything is measured again"):
        _, timing = build_plan(file, ALWAYS, EngineOptions((32,)), timing_cache=b"other GPU")
    assert timing == b"measured"


def test_complaints_of_earlier_builds_are_forgotten(trt: Any, file: ExplainerFile) -> None:
    trt.faults = {"get_timing_cache"}
    with pytest.raises(EngineError):
        build_plan(file, ALWAYS, EngineOptions((32,)))
    trt.faults = {"build_serialized_network"}
    with pytest.raises(EngineError) as caught:
        build_plan(file, ALWAYS, EngineOptions((32,)))
    assert "get_timing_cache" not in str(caught.value)


def test_no_driver(trt: Any, file: ExplainerFile) -> None:
    trt.faults.add("Builder")
    with pytest.raises(BackendError, match="does not start"):
        build_plan(file, ALWAYS, EngineOptions((32,)))
