"""Measures the published networks and writes the page about them.

PYTHONPATH=tests python -m networks.table docs/networks.md [NAME ...]

Needs the dependency group `dev` and the extra `demo`; takes about half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Final

from klieg.storage.atomic import atomic_path
from networks import tensorrt_rtx
from networks.architectures import NETWORKS
from networks.graphs import GradientError
from networks.measure import ROUNDS, Gradient, Measurement, measure

PROFILED: Final = ("resnet50", "vgg16", "mobilenet_v2", "efficientnet_b0")
OPERATORS: Final = 10

PAGE: Final = """# Networks

Written by `PYTHONPATH=tests python -m networks.table docs/networks.md`, {date}: {machine}.

torchvision's architectures with random weights, statistics of batch normalisation taken from random
images; EfficientNet-Lite0 with its real weights. One trace each. Parity is measured on images of 64
to 139 pixels, everything else at 224 (Inception-v3: 299; ViT: all at 224).

## Size, parity, TensorRT

"layer" is the explainer at the default layer, "image" the gradient at the normalised image
(`add_gradient`). Parity is the relative error against torch autograd in the Euclidean norm, two
images of two classes; where a Relu within rounding of 0 makes float32 differ, the error in float64
counts and that in float32 stands in brackets. TensorRT: parsed and built by TensorRT-RTX
{tensorrt} with dynamic batch, height and width (fixed height and width where the network has them):
seconds, and peak memory of the build.

{sizes}

## Time

ONNX Runtime, one image, two figures. "Run": best of {rounds} whole runs, the three graphs in turn.
"Nodes": each node's best of {rounds} profiled runs, summed; what other work on the machine does to
a run shows less there. The layer's graph normalises its image, the others get it normalised.

{times}

## Where the time of the gradient at the image goes

The figure "nodes" per operator type, in milliseconds. ReorderInput and ReorderOutput are ONNX
Runtime's, between plain and blocked layout.

{operators}
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("names", nargs="*", help="only these networks")
    arguments = parser.parse_args()
    rows = []
    for network in NETWORKS:
        if not arguments.names or network.name in arguments.names:
            rows.append(measure(network))
            print(*_size_row(rows[-1]), *_time_row(rows[-1]), sep=" | ", file=sys.stderr)
            with atomic_path(arguments.page) as temporary:  # after each: the whole takes long
                temporary.write_text(page(rows))


def page(rows: Sequence[Measurement]) -> str:
    """Return the page about some networks."""
    packages = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("onnxruntime", "torch")
    )
    return PAGE.format(
        date=date.today().isoformat(),
        machine=f"{os.cpu_count()} cores of a shared {platform.machine()} server, no GPU, "
        f"Python {platform.python_version()}, {packages}",
        tensorrt=tensorrt_rtx.version(),
        rounds=ROUNDS,
        sizes=_table(SIZE_COLUMNS, map(_size_row, rows)),
        times=_table(TIME_COLUMNS, map(_time_row, rows)),
        operators="\n\n".join(_operators(row) for row in rows if row.network.name in PROFILED),
    )


SIZE_COLUMNS: Final = (
    "network",
    "default layer",
    "nodes",
    "layer",
    "image",
    "MB",
    "layer",
    "image",
    "parity: layer",
    "image",
    "TensorRT: layer",
    "image",
)
TIME_COLUMNS: Final = (
    "network",
    "classifier: run",
    "nodes",
    "layer: run",
    "nodes",
    "image: run",
    "nodes",
)


def _size_row(row: Measurement) -> list[str]:
    layer, image = row.at_layer, row.at_image
    growth = layer.megabytes / row.megabytes - 1
    return [
        row.network.title,
        f"`{row.layer}`",
        str(row.nodes),
        str(layer.nodes),
        str(image.nodes) if image else "no rule",
        f"{row.megabytes:.1f}",
        f"{layer.megabytes:.1f} ({growth:+.1%})",
        f"{image.megabytes:.1f}" if image else "",
        _error(layer.error),
        _error(image.error) if image else row.missing.split(";")[0],
        _built(layer),
        _built(image) if image else "",
    ]


def _time_row(row: Measurement) -> list[str]:
    run, nodes = row.milliseconds, sum(row.operators.values())
    cells = [row.network.title, f"{run:.1f} ms", f"{nodes:.1f} ms"]
    for gradient in (row.at_layer, row.at_image):
        if gradient is None:
            return [*cells, "", ""]
        cells.append(f"{gradient.milliseconds / run:.2f}x")
        cells.append(f"{sum(gradient.operators.values()) / nodes:.2f}x")
    return cells


def _operators(row: Measurement) -> str:
    gradient = row.at_image.operators if row.at_image else {}
    ranked = sorted(gradient.items(), key=lambda item: -item[1])[:OPERATORS]
    lines = [[kind, f"{row.operators.get(kind, 0):.1f}", f"{spent:.1f}"] for kind, spent in ranked]
    lines.append(["all", *(f"{sum(part.values()):.1f}" for part in (row.operators, gradient))])
    return _table((row.network.title, "classifier", "with the gradient at the image"), lines)


def _error(error: GradientError) -> str:
    exact = f"{error.value:.0e}"
    return exact if error.float64 is None else f"{exact} ({error.float32:.0e})"


def _built(gradient: Gradient) -> str:
    build = gradient.build
    if build.complaint is not None:
        return f"refused: {build.complaint[:80]}"
    return f"{build.seconds:.1f} s, {build.peak_bytes / 2**20:.0f} MiB"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


if __name__ == "__main__":
    main()
