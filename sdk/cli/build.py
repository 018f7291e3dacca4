"""klieg build: engines for the GPU of this machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

import klieg.cli.options as shared
from klieg.cli.engine import ENGINES
from klieg.errors import EngineError, OptionError
from klieg.model_file.methods import find_method

if TYPE_CHECKING:
    from klieg.backends.tensorrt.cache import EngineCache, Entry
    from klieg.backends.tensorrt.manifest import Identity, Platform
    from klieg.model_file.explainer_file import ExplainerFile


@click.command(short_help="Build TensorRT engines for this GPU.")
@shared.EXPLAINER
@shared.METHODS
@shared.SCALES
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Images in one pass at most.",
)
@click.option(
    "--targets",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Classes per image in one pass at most.",
)
@click.option(
    "--workspace",
    metavar="MIB",
    type=click.IntRange(min=1),
    help="Memory for intermediate steps of a layer. Default: all of the GPU.",
)
@ENGINES
@click.option(
    "--device",
    metavar="NAME",
    default="cuda.core",
    show_default=True,
    help="The package that drives the GPU: cuda.core or pycuda; cuda.core:1 is the second GPU.",
)
def build(
    explainer: Path,
    methods: list[str],
    scales: list[int] | None,
    batch: int,
    targets: int,
    workspace: int | None,
    engines: Path | None,
    device: str,
) -> None:
    """Build the TensorRT engines that some methods need of the file EXPLAINER.

    An engine works on this kind of GPU with this version of TensorRT only, at the image sizes it
    was built for. Methods that need the same outputs share one. Building takes minutes the first
    time; what it measures is kept for the next one. An engine that is there as it was built is left
    alone.
    """
    from klieg.backends.tensorrt.bindings import open_tensorrt
    from klieg.backends.tensorrt.building import build_plan
    from klieg.backends.tensorrt.cache import EngineCache
    from klieg.backends.tensorrt.manifest import Identity, Platform
    from klieg.backends.tensorrt.profiles import EngineOptions
    from klieg.kernels.device.opening import open_device
    from klieg.model_file.explainer_file import read_explainer

    file, cache = read_explainer(explainer), EngineCache(engines)
    wanted = {
        outputs: EngineOptions(sizes, batch, targets, workspace and workspace << 20)
        for outputs, sizes in _sizes_by_outputs(file, methods, scales).items()
    }
    cache.check_folder()  # not after minutes of building
    opened = open_tensorrt()
    with closing(open_device(device)) as gpu:
        platform = Platform.of(gpu, opened.version)
        major, minor = platform.architecture
        click.echo(f"GPU       {platform.gpu}, compute capability {major}.{minor}")
        click.echo(f"TensorRT  {platform.tensorrt}")
        for outputs, options in wanted.items():
            identity = Identity(file.sha256, outputs, options, platform)
            present = _present(cache, identity)
            _echo_wrapped("present   " if present else "building  ", ", ".join(outputs))
            _echo_wrapped("          ", str(options))
            if present:
                click.echo(f"          {present.plan.name}")
                continue
            start = time.monotonic()
            timing = _timing_cache(cache, platform)
            with gpu.activated():
                plan, measured = build_plan(file, outputs, options, timing_cache=timing, warn=_warn)
            entry = cache.store(file, identity, plan, gpu.versions)
            cache.store_timing_cache(platform, measured)
            seconds = time.monotonic() - start
            click.echo(f"wrote     {entry.plan.name}")
            click.echo(f"          {len(plan) / 1e6:.1f} MB in {seconds:.1f} s")
    click.echo(f"engines   {len(wanted)} in {cache.folder}")


def _echo_wrapped(title: str, text: str) -> None:
    width = shutil.get_terminal_size().columns
    indent = " " * len(title)
    click.echo(click.wrap_text(text, width, initial_indent=title, subsequent_indent=indent))


def _sizes_by_outputs(
    file: ExplainerFile, methods: Sequence[str], scales: Sequence[int] | None
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return the image sizes of each set of outputs that a method needs, both in order."""
    from klieg.model_file.methods import chosen_scales
    from klieg.model_file.outputs import remedy

    if not methods:
        raise OptionError("got no methods, expected at least one, such as --methods cameras")
    found: dict[tuple[str, ...], set[int]] = {}
    for name in methods:
        method = find_method(name)
        missing = sorted(set(method.outputs) - file.outputs)
        if missing:
            raise OptionError(
                f"method {name!r} needs the output {missing[0]!r}, which {file.path} lacks: "
                f"{remedy(missing[0])}"
            )
        # The first scale is that of the maps, and the only one of most methods.
        given = scales if scales is None or method.multi_scale else scales[:1]
        sizes = chosen_scales(given, method=name, info=file.info, fixed_size=file.fixed_size)
        found.setdefault(tuple(sorted(method.outputs)), set()).update(sizes)
    return {outputs: tuple(sorted(sizes)) for outputs, sizes in found.items()}


def _present(cache: EngineCache, identity: Identity) -> Entry | None:
    try:
        return cache.find(identity)
    except EngineError as error:
        _warn(f"the engine that is there is not used: {error}")
        return None


def _timing_cache(cache: EngineCache, platform: Platform) -> bytes | None:
    try:
        return cache.timing_cache(platform)
    except EngineError as error:
        _warn(f"{error}: everything is measured again")
        return None


def _warn(text: str) -> None:
    click.echo(f"Warning: {text}", err=True)
