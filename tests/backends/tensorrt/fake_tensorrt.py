"""A `tensorrt` that writes down what is asked of it, computes something simple, and can fail.

A plan is JSON with the outputs and profiles of the graph that was parsed. An engine fills row r of
an output with: its number among all outputs + the mean of the image that r belongs to + the class
asked in r where the output has a row per class. Whatever the real one leaves undefined is refused:
addresses or memory that were not set, shapes outside of the profile, plans that nobody built, a
context that is changed or gone after it was recorded, or recorded before it has run once as it is.
"""

from __future__ import annotations

import enum
import hashlib
import json
import threading
import weakref
from collections.abc import Sequence
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import numpy as np

from fake_gpu import STREAM, active, view
from helpers.cpu_device import recording
from klieg.model_file.onnx_file import OnnxFacts, read_onnx

ALL_OUTPUTS = (
    "logits",
    "activation",
    "gradient",
    "image_gradient",
    "guided_gradient",
    "deconvnet_gradient",
    "excitation",
    "contrast",
    "mask",
)
SCRATCH = 4096
ON_THE_GPU = (
    "build_serialized_network",
    "deserialize_cuda_engine",
    "create_execution_context",
    "set_optimization_profile_async",
    "execute_async_v3",
)


def value(name: str, mean: float, target: int, *, per_target: bool) -> np.float32:
    """Return what the fake engine fills a row with."""
    number = 1000 * ALL_OUTPUTS.index(name)
    return np.float32(number + mean + (target if per_target else 0))


def fake_tensorrt(version: str = "10.16.1.11") -> Any:
    """Return a new module.

    `calls` lists what was called with what, `plans` the digests of all bytes that a runtime was
    given, `faults` the names of calls that are to fail, `complaint` what the log says of that,
    and `most_inside` how many threads were ever inside.
    """
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    trt.calls, trt.plans, trt.faults, trt.complaint = [], [], set(), ""
    trt.inside, trt.most_inside, trt.counting = 0, 0, threading.Lock()

    def called(name: str, *arguments: object) -> bool:
        """Note a call; return False if it is to fail, after a complaint."""
        assert name not in ON_THE_GPU or active(), f"{name} outside of the context"
        trt.calls.append((name, *arguments))
        if name in trt.faults and trt.logger is not None:
            trt.logger.log(ILogger.INFO, "this is no complaint")
            trt.logger.log(ILogger.ERROR, trt.complaint or f"{name} went wrong")
        return name not in trt.faults

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        def log(self, severity: int, msg: str) -> None:
            raise AssertionError("not derived from")

    trt.logger = None

    class HostMemory(bytes):
        pass

    class Config:
        def __init__(self) -> None:
            self.profiles: list[Any] = []
            self.cache: TimingCache | None = None

        def clear_flag(self, flag: Any) -> None:
            called("clear_flag", flag)

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            called("set_memory_pool_limit", pool, pool_size)

        def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
            fine = called("create_timing_cache", serialized_timing_cache)
            return TimingCache(serialized_timing_cache) if fine else None

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return called("set_timing_cache", ignore_mismatch) and cache.data[:5] != b"other"

        def get_timing_cache(self) -> TimingCache | None:
            return self.cache if called("get_timing_cache") else None

        def add_optimization_profile(self, profile: Profile) -> int:
            if not called("add_optimization_profile"):
                return -1
            self.profiles.append(profile.shapes)
            return len(self.profiles) - 1

    class TimingCache:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> HostMemory:
            return HostMemory(self.data + b"measured")

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
            if not called("set_shape", input, min, opt, max):
                raise ValueError("these shapes do not fit")
            self.shapes[input] = [min, opt, max]

    class Network:
        facts: OnnxFacts

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            trt.logger = logger
            if not called("Builder"):
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int) -> Network:
            called("create_network", flags)
            return Network()

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> Any:
            if not called("build_serialized_network"):
                return None
            outputs = {name: tensor.shape for name, tensor in network.facts.outputs.items()}
            return HostMemory(json.dumps([outputs, config.profiles]).encode())

    class OnnxParser:
        def __init__(self, network: Network, logger: ILogger) -> None:
            self.network = network
            self.num_errors = 5 if "parse" in trt.faults else 0

        def parse(self, model: bytes) -> bool:
            self.network.facts = read_onnx(model)
            return called("parse", len(model))

        def get_error(self, index: int) -> Any:
            said = {"node_name": "node_7", "node_operator": "Det", "desc": "no such operator"}
            return Mock(**{f"{name}.return_value": text for name, text in said.items()})

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            trt.logger = logger
            if not called("Runtime"):
                raise TypeError("pybind11::init(): factory function returned nullptr")

        @property
        def engine_host_code_allowed(self) -> bool:
            raise AssertionError("host code of engines was asked about")

        @engine_host_code_allowed.setter
        def engine_host_code_allowed(self, allowed: bool) -> None:
            raise AssertionError("host code of engines was allowed")

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            trt.plans.append(hashlib.sha256(serialized_engine).hexdigest())
            if not called("deserialize_cuda_engine"):
                return None
            outputs, profiles = json.loads(serialized_engine)
            return Engine(outputs, profiles)

    class Engine:
        def __init__(self, outputs: dict[str, Any], profiles: list[Any]) -> None:
            self.outputs, self.profiles = outputs, profiles
            self.names = ["image", "target", *outputs]
            self.num_io_tensors = len(self.names)
            self.num_optimization_profiles = len(profiles)
            self.device_memory_size_v2 = SCRATCH

        def get_tensor_name(self, index: int) -> str:
            return self.names[index]

        def get_tensor_dtype(self, name: str) -> DataType:
            half = not called("get_tensor_dtype", name)
            return DataType.HALF if half else DataType.INT64 if name == "target" else DataType.FLOAT

        def get_tensor_location(self, name: str) -> TensorLocation:
            called("get_tensor_location", name)
            host = "get_tensor_location" in trt.faults
            return TensorLocation.HOST if host else TensorLocation.DEVICE

        def create_execution_context(self, strategy: Any) -> Context | None:
            return Context(self) if called("create_execution_context", strategy) else None

    class Context:
        def __init__(self, engine: Engine) -> None:
            self.engine = engine
            self.profile = self.memory = -1
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.addresses: dict[str, int] = {}
            self.ran_with: Any = None
            self.recorded = False

        def __setattr__(self, name: str, changed: Any) -> None:
            assert not getattr(self, "recorded", False), f"{name} of a recorded context changed"
            super().__setattr__(name, changed)

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            assert stream_handle == STREAM
            self.profile = profile_index
            return called("set_optimization_profile_async", profile_index)

        def set_device_memory(self, memory: int, size: int) -> None:
            called("set_device_memory", memory, size)
            assert memory % 256 == 0
            assert size >= SCRATCH
            self.memory = memory

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            smallest, _, largest = self.engine.profiles[self.profile][name]
            inside = all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))
            self.shapes = self.shapes | {name: shape}
            return called("set_input_shape", name, shape) and inside

        def get_tensor_shape(self, name: str) -> Sequence[int]:
            if not called("get_tensor_shape", name):
                return (-1, 5)
            batch, _, size, _ = self.shapes["image"]
            known = {
                "batch": batch,
                "targets": self.shapes["target"][0],
                "height": size,
                "width": size,
                "rows": size // 8,
                "columns": size // 8,
            }
            return [known.get(length, length) for length in self.engine.outputs[name]]

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self.addresses = self.addresses | {name: memory}
            return called("set_tensor_address", name, memory) and memory % 256 == 0

        def execute_async_v3(self, stream_handle: int) -> bool:
            with trt.counting:
                trt.inside += 1
                trt.most_inside = max(trt.most_inside, trt.inside)
            assert stream_handle == STREAM
            assert self.memory > 0
            assert set(self.addresses) == set(self.engine.names)
            now = self.shapes, self.addresses, self.memory
            if called("execute_async_v3", self.profile, self.shapes["image"]):
                kept, itself = recording(), weakref.ref(self)
                if kept is None:
                    self.fill()
                    self.ran_with = now
                else:
                    assert self.ran_with == now, "recorded before it has run once"
                    kept.append(lambda: itself().fill())
                    self.recorded = True
            with trt.counting:
                trt.inside -= 1
            return "execute_async_v3" not in trt.faults

        def fill(self) -> None:
            images = view(self.addresses["image"], self.shapes["image"], np.float32)
            targets = view(self.addresses["target"], self.shapes["target"], np.int64)
            means = images.reshape(len(images), -1).mean(axis=1)
            for name, lengths in self.engine.outputs.items():
                rows = view(self.addresses[name], self.get_tensor_shape(name), np.float32)
                each, per_target = len(rows) // len(images), lengths[0] == "targets"
                for row in range(len(rows)):
                    target = int(targets[row]) if per_target else 0
                    rows[row] = value(name, means[row // each], target, per_target=per_target)

    class DataType(enum.Enum):
        FLOAT, HALF, INT64 = range(3)

    class TensorLocation(enum.Enum):
        DEVICE, HOST = range(2)

    trt.ILogger, trt.Builder, trt.OnnxParser, trt.Runtime = ILogger, Builder, OnnxParser, Runtime
    trt.DataType, trt.TensorLocation = DataType, TensorLocation
    trt.NetworkDefinitionCreationFlag = enum.IntEnum(
        "NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1}
    )
    trt.BuilderFlag = enum.Enum("BuilderFlag", ["TF32", "FP16"])
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
    trt.ExecutionContextAllocationStrategy = enum.Enum(
        "ExecutionContextAllocationStrategy", ["STATIC", "USER_MANAGED"]
    )
    return trt


def names(trt: Any) -> list[str]:
    """Return the names of the calls so far."""
    return [call[0] for call in trt.calls]
