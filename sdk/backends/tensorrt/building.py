"""From an explainer file to a plan, on the GPU that is going to run it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import klieg.backends.tensorrt.interface as api
from klieg.backends.tensorrt.bindings import TensorRT, open_tensorrt
from klieg.backends.tensorrt.profiles import EngineOptions, Shapes, profiles
from klieg.errors import EngineError
from klieg.model_file.explainer_file import ExplainerFile
from klieg.model_file.subgraph import subgraph

BUILD: Final = 1
"""How engines are built: raise it with every change of the cut, the profiles or the flags here."""

QUOTED: Final = 3
"""Nodes that an error message names."""


def build_plan(
    file: ExplainerFile,
    outputs: Iterable[str],
    options: EngineOptions,
    *,
    timing_cache: bytes | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> tuple[bytes, bytes]:
    """Build an engine for the GPU whose context is active: see `CudaDevice.activated`.

    The precision is that of the file, which says it for each tensor: float32 is not rounded to
    TF32 either.

    Args:
        file: The explainer.
        outputs: Names of outputs of the file; what none of them needs is left out.
        options: Shapes and memory.
        timing_cache: What an earlier build has measured; None to measure everything.
        warn: Told if TensorRT refuses that; everything is measured then.

    Returns:
        The plan, and the timing cache for the next build.

    Raises:
        OptionError: the file takes no such images.
        EngineError: TensorRT refuses a node, or finds no way to build the engine.
        BackendError: TensorRT is not installed, or of an unknown version.
    """
    shapes = profiles(file, options)
    opened = open_tensorrt()
    trt, log = opened.package, opened.log
    log.clear()
    builder = opened.builder()
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)  # holds the weights until the engine is built
    if not parser.parse(subgraph(file.data, outputs)):
        raise _refusal(opened, file, parser)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    _use_timing_cache(opened, config, timing_cache or b"", warn)
    for entry in shapes:
        _add_profile(opened, builder, config, entry)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {opened.version} found no way to build an engine for {options} from "
            f"{file.path}: {log.text()}; if memory is short, build for smaller sizes, a smaller "
            "batch or with less workspace, else see `klieg inspect --tensorrt`"
        )
    measured = config.get_timing_cache()
    if measured is None:
        raise EngineError(f"TensorRT {opened.version} lost its timing cache: {log.text()}")
    return bytes(plan), bytes(measured.serialize())


def _add_profile(
    opened: TensorRT,
    builder: api.Builder,
    config: api.IBuilderConfig,
    shapes: Mapping[str, Shapes],
) -> None:
    profile = builder.create_optimization_profile()
    try:
        for name, (smallest, usual, largest) in shapes.items():
            profile.set_shape(name, smallest, usual, largest)
        valid = config.add_optimization_profile(profile) >= 0
    except ValueError as error:
        raise EngineError(
            f"TensorRT {opened.version} refuses the shapes {dict(shapes)}: {error}"
        ) from error
    if not valid:
        raise EngineError(
            f"TensorRT {opened.version} refuses the shapes {dict(shapes)}: {opened.log.text()}"
        )


def _refusal(opened: TensorRT, file: ExplainerFile, parser: api.OnnxParser) -> EngineError:
    errors = [parser.get_error(index) for index in range(min(QUOTED, parser.num_errors))]
    nodes = "; ".join(
        f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}" for error in errors
    )
    return EngineError(
        f"TensorRT {opened.version} cannot read {file.path}: {nodes or opened.log.text()}; "
        f"`klieg inspect --tensorrt {file.path}` lists all nodes that it refuses"
    )


def _use_timing_cache(
    opened: TensorRT, config: api.IBuilderConfig, data: bytes, warn: Callable[[str], None]
) -> None:
    cache = config.create_timing_cache(data)
    if cache is not None and config.set_timing_cache(cache, False):
        return
    if not data:
        raise EngineError(f"TensorRT {opened.version} has no timing cache: {opened.log.text()}")
    warn(
        f"TensorRT {opened.version} refuses the timing cache, which another GPU or driver may have "
        f"written ({opened.log.text()}): everything is measured again"
    )
    opened.log.clear()
    _use_timing_cache(opened, config, b"", warn)
