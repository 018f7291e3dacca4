"""Measuring one network: nodes, size, parity, time, and what TensorRT's builder says."""

from __future__ import annotations

import json
import math
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from klieg.errors import UnsupportedOperatorError
from networks.architectures import Network
from networks.graphs import CHANNELS, GradientError, NetworkGraphs
from networks.tensorrt_rtx import Build, build_engine

ROUNDS: Final = 15

Feeds = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Gradient:
    """A graph with the gradient at one tensor."""

    nodes: int
    megabytes: float
    error: GradientError
    build: Build
    milliseconds: float
    """Best of several runs."""
    operators: Mapping[str, float]
    """Milliseconds per operator type: each node's best of several profiled runs, summed."""


@dataclass(frozen=True)
class Measurement:
    """One network."""

    network: Network
    layer: str
    nodes: int
    megabytes: float
    milliseconds: float
    at_layer: Gradient
    at_image: Gradient | None
    """None if an operator has no rule."""
    missing: str
    """Which operator that is."""
    operators: Mapping[str, float]
    """Milliseconds per operator type of the classifier, see `Gradient.operators`."""


def measure(network: Network) -> Measurement:
    """Measure a network: parity at a small size where it takes any, the rest at its own size."""
    size = network.size
    graphs = NetworkGraphs(network, size=size if network.fixed_size else network.smallest)
    image = np.random.default_rng(0).standard_normal((1, CHANNELS, size, size), dtype=np.float32)
    target = np.array([3])
    models: dict[str, tuple[onnx.ModelProto, Feeds]] = {
        "classifier": (graphs.classifier, {"input": image}),
        "layer": (graphs.explainer, {"image": image, "target": target}),
    }
    missing = ""
    try:
        models["image"] = (graphs.image_gradient, {"input": image, "target": target})
    except UnsupportedOperatorError as error:
        missing = str(error)
    times = _best_times(models)
    spent = {name: _time_per_operator(*both) for name, both in models.items()}
    layer_error = graphs.layer_errors()
    errors = {
        "layer": GradientError(
            layer_error.get("gradient_float32", layer_error["gradient"]),
            layer_error["gradient"] if "gradient_float32" in layer_error else None,
        )
    }
    if not missing:
        errors["image"] = graphs.image_error()
    gradients = {
        name: Gradient(
            nodes=len(models[name][0].graph.node),
            megabytes=_megabytes(models[name][0]),
            error=error,
            build=_build(models[name][0], size),
            milliseconds=times[name],
            operators=spent[name],
        )
        for name, error in errors.items()
    }
    return Measurement(
        network=network,
        layer=graphs.original.layer,
        nodes=len(graphs.classifier.graph.node),
        megabytes=_megabytes(graphs.classifier),
        milliseconds=times["classifier"],
        at_layer=gradients["layer"],
        at_image=gradients.get("image"),
        missing=missing,
        operators=spent["classifier"],
    )


def _megabytes(model: onnx.ModelProto) -> float:
    return len(model.SerializeToString()) / 1e6


def _best_times(models: Mapping[str, tuple[onnx.ModelProto, Feeds]]) -> dict[str, float]:
    """Return the best time of each model in milliseconds, over rounds in which they take turns."""
    sessions = {name: _session(model) for name, (model, _) in models.items()}
    best = dict.fromkeys(models, math.inf)
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, models[name][1])
            best[name] = min(best[name], (time.perf_counter() - started) * 1e3)
    return best


def _session(model: onnx.ModelProto, *, profile: str | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin on after a run would take the cores from the next session in turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _time_per_operator(model: onnx.ModelProto, feeds: Feeds) -> dict[str, float]:
    """Return milliseconds per operator type: each node's best of several runs, summed."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(model, profile=f"{folder}/profile")
        for _ in range(ROUNDS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    best: dict[tuple[str, str], float] = defaultdict(lambda: math.inf)
    for event in events:
        if event["name"].endswith("_kernel_time"):
            key = event["args"]["op_name"], event["name"]
            best[key] = min(best[key], event["dur"] / 1e3)
    total: dict[str, float] = defaultdict(float)
    for (operator, _), milliseconds in best.items():
        total[operator] += milliseconds
    return dict(total)


def _build(model: onnx.ModelProto, size: int) -> Build:
    """Build in a fresh process, so that its peak memory is that of this build."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        sizes = (size, size, 2 * size)
        return pool.submit(build_engine, model.SerializeToString(), sizes=sizes).result()
