"""TensorRT's own parser and builder, which its RTX edition runs without a GPU.

`tensorrt-rtx-cu13-libs` and `-bindings` are proprietary and serve here only to check graphs: see
the dependency group `dev`. They share parser and interface with TensorRT; the engines they build
are for RTX devices and are thrown away.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from klieg.backends.tensorrt.bindings import Log, process_log

BATCHES = (1, 2, 4)
"""Smallest, usual and largest batch of the optimisation profile."""

_TURN: Final = threading.Lock()


@dataclass(frozen=True)
class Build:
    """What became of one graph."""

    complaint: str | None
    """What the parser or the builder said when it refused, None if there is an engine."""
    layers: int = 0
    seconds: float = 0.0
    engine_bytes: int = 0
    peak_bytes: int = 0
    """Peak memory of the process above what it held before."""


def version() -> str:
    """Return the version of the TensorRT-RTX that is installed."""
    import tensorrt_rtx_bindings as trt

    return str(trt.__version__)


def parse(model: bytes) -> str | None:
    """Parse a graph; return what the parser complains of, None if it takes the graph."""
    import tensorrt_rtx_bindings as trt

    with _messages(trt) as log:
        network = trt.Builder(log.logger).create_network(0)
        return _parse(trt.OnnxParser(network, log.logger), model)


def build_engine(model: bytes, *, sizes: Sequence[int]) -> Build:
    """Parse a graph and build an engine.

    Args:
        model: A serialised ONNX model. Every dynamic axis 0 is the batch, every other dynamic axis
            a height or width.
        sizes: Smallest, usual and largest height and width.
    """
    import tensorrt_rtx_bindings as trt

    with _messages(trt) as log:
        return _build(trt, log, model, sizes)


def _build(trt: Any, log: Log, model: bytes, sizes: Sequence[int]) -> Build:
    builder = trt.Builder(log.logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log.logger)
    started, held = time.perf_counter(), _memory("VmRSS")
    complaint = _parse(parser, model)
    if complaint is not None:
        return Build(complaint)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [
            [
                (batch if axis == 0 else size) if length < 0 else length
                for axis, length in enumerate(tensor.shape)
            ]
            for batch, size in zip(BATCHES, sizes, strict=True)
        ]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return Build(log.text())
    return Build(
        None,
        layers=network.num_layers,
        seconds=time.perf_counter() - started,
        engine_bytes=engine.nbytes,
        peak_bytes=_memory("VmHWM") - held,
    )


def _parse(parser: Any, model: bytes) -> str | None:
    if parser.parse(model):
        return None
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"{e.node_operator()}: {e.desc()}" for e in errors) or "no parse"


@contextmanager
def _messages(trt: Any) -> Iterator[Log]:
    """Hand the log of the process to one call after the other, empty: each reads its own."""
    with _TURN:
        log = process_log(trt)
        log.clear()
        yield log


def _memory(field: str) -> int:
    """Return a size of this process in bytes; the peak of getrusage would be its parent's."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0
