"""Options for which engine computes, and where."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from klieg.cli.parameters import Known
from klieg.errors import OptionError

if TYPE_CHECKING:
    from klieg.explainer import Explainer

ENGINES: Final = click.option(
    "--engines",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of TensorRT engines. Default: $KLIEG_ENGINES, or klieg/engines in the user's "
    "cache.",
)


def _known_engine(name: str) -> object:
    from klieg.backends import find_engine

    return find_engine(name)


_OPTIONS: Final = (
    click.option(
        "--backend",
        type=Known(_known_engine),
        default="onnxruntime",
        show_default=True,
        help="What runs the network: onnxruntime, tensorrt (needs `klieg build` before), or an "
        "engine of an installed package.",
    ),
    click.option(
        "--provider",
        multiple=True,
        help="ONNX Runtime execution provider. Default: CPU, with --device CUDA.",
    ),
    click.option(
        "--device",
        metavar="NAME",
        help="Keep CAMERAS and CASM on a GPU, driven by cuda.core or pycuda; cuda.core:1 is the "
        "second GPU.",
    ),
    ENGINES,
    click.option("--threads", type=click.IntRange(min=1), help="Default: all cores."),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which takes them as **engine."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


def open_explainer(
    path: Path, *, backend: str, provider: tuple[str, ...], **engine: Any
) -> Explainer:
    """Open an explainer file as the options say."""
    from klieg.backends import find_engine, named_engine
    from klieg.explainer import Explainer

    given = {"providers": provider or None, **engine}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - inspect.signature(find_engine(backend)).parameters.keys():
        flag = "--provider" if name == "providers" else f"--{name}"
        raise OptionError(f"--backend {backend} takes no {flag}: leave it out")
    return Explainer(path, backend=named_engine(backend, **options))
