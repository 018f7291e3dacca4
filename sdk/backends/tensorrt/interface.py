"""What klieg uses of TensorRT's objects, in the words that versions 10 and 11 share.

TensorRT ships no type stubs. Each protocol has the name of the class that it describes, so that a
test can hold every member and every argument against the real bindings of both versions; the type
checker sees to it that nothing else is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class ILogger(Protocol):
    """Takes TensorRT's messages; to be derived from."""

    ERROR: Any
    INTERNAL_ERROR: Any


class IHostMemory(Protocol):
    """Bytes that TensorRT holds."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """Let `bytes` copy them."""


class ITimingCache(Protocol):
    """How long each way to compute a layer took on this GPU."""

    def serialize(self) -> IHostMemory:
        """Return it as bytes."""


class IOptimizationProfile(Protocol):
    """Shapes that an engine is made for."""

    def set_shape(
        self,
        input: str,  # noqa: A002  # TensorRT's names
        min: Sequence[int],  # noqa: A002
        opt: Sequence[int],
        max: Sequence[int],  # noqa: A002
    ) -> None:
        """Set the smallest, the usual and the largest shape of an input; may raise ValueError."""


class IBuilderConfig(Protocol):
    """How to build."""

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Return the number of the profile, -1 if it is not valid."""

    def clear_flag(self, flag: Any) -> None:
        """Switch something off that is on by default."""

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Limit a kind of memory to so many bytes."""

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        """Make a cache from its bytes, an empty one from none."""

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Return False if the cache is of another GPU."""

    def get_timing_cache(self) -> ITimingCache | None:
        """Return the cache with what was measured while building."""


class INetworkDefinition(Protocol):
    """A graph in TensorRT's own form."""


class Builder(Protocol):
    """Makes engines."""

    def create_network(self, flags: int) -> INetworkDefinition:
        """Return an empty graph."""

    def create_builder_config(self) -> IBuilderConfig:
        """Return the defaults."""

    def create_optimization_profile(self) -> IOptimizationProfile:
        """Return an empty profile."""

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        """Return a plan, None if there is no way to build one."""


class ParserError(Protocol):
    """Why a node cannot be read."""

    def node_name(self) -> str:
        """Return the node's name."""

    def node_operator(self) -> str:
        """Return the node's operator."""

    def desc(self) -> str:
        """Return the reason."""


class OnnxParser(Protocol):
    """A reader of ONNX files into a graph."""

    @property
    def num_errors(self) -> int:
        """Number of errors."""

    def parse(self, model: bytes) -> bool:
        """Return False if there are errors."""

    def get_error(self, index: int) -> ParserError:
        """Return one of the errors."""


class IExecutionContext(Protocol):
    """An engine at one profile, with addresses and shapes of its inputs and outputs."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Choose the profile."""

    def set_device_memory(self, memory: int, size: int) -> None:
        """Say where intermediate results may lie."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Set the shape of an input."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """Return a shape, with -1 where it is not known yet."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Say where an input or output lies."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Enqueue a pass."""


class ICudaEngine(Protocol):
    """A plan that is ready to run."""

    @property
    def num_io_tensors(self) -> int:
        """Number of inputs and outputs."""

    @property
    def num_optimization_profiles(self) -> int:
        """Number of profiles."""

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes of intermediate results, of the profile that needs most."""

    def get_tensor_name(self, index: int) -> str:
        """Return the name of an input or output."""

    def get_tensor_dtype(self, name: str) -> Any:
        """Return its type."""

    def get_tensor_location(self, name: str) -> Any:
        """Return whether it lies on the GPU."""

    def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
        """Return a new context, None if there is no memory for it."""


class Runtime(Protocol):
    """A reader of plans."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """Return an engine, None if the plan cannot be used here."""


class NetworkDefinitionCreationFlag(Protocol):
    """Kinds of graphs."""

    STRONGLY_TYPED: Any


class BuilderFlag(Protocol):
    """What a builder may do."""

    TF32: Any


class MemoryPoolType(Protocol):
    """Kinds of memory."""

    WORKSPACE: Any


class ExecutionContextAllocationStrategy(Protocol):
    """Who allocates the memory of intermediate results."""

    USER_MANAGED: Any


class DataType(Protocol):
    """Types of tensors."""

    FLOAT: Any
    INT64: Any


class TensorLocation(Protocol):
    """Where tensors lie."""

    DEVICE: Any
