"""klieg inspect: what an explainer file says about itself, what a bare classifier offers."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from klieg.cli.failure import reported
from klieg.errors import ExportError, UnsafeFileError

if TYPE_CHECKING:
    from klieg.export.inspection.classifier import Inspection, MeasuredMap

WIDTH: Final = 80
RUN: Final = 6
"""Feature maps of one size in a row that are listed; of longer rows the first and last ones."""


@click.command(short_help="Show what an explainer file or a classifier contains.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--classes", is_flag=True, help="List the class names of an explainer as well.")
@click.option("--all", "everything", is_flag=True, help="List every feature map, names in full.")
@click.option("--tensorrt", is_flag=True, help="List what TensorRT refuses instead.")
def inspect(model: Path, classes: bool, everything: bool, tensorrt: bool) -> None:
    """Show what the ONNX file MODEL contains.

    An explainer file says it itself: nothing of it is executed. A bare classifier is run on a blank
    image (needs klieg[export]) to show its inputs and outputs, its feature maps with their shapes,
    the layer that `klieg export` takes by default, and operators that cannot be differentiated.

    The exit code is 1 if a bare classifier cannot be exported as it is, and with --tensorrt if a
    node is on TensorRT's denylist.
    """
    with reported():
        explainer = _is_explainer(model)
        if tensorrt:
            clean = _show_lint(model)
        elif explainer:
            _show_explainer(model, classes)
            clean = True
        else:
            clean = _show_classifier(model, everything)
    if not clean:
        raise SystemExit(1)


def _is_explainer(path: Path) -> bool:
    """Return whether an ONNX file is an explainer; one of klieg's errors if it is no ONNX file."""
    from klieg.model_file.explainer_file import read_explainer
    from klieg.model_file.wire import read_onnx

    if not path.is_file():
        read_explainer(path)  # says why
    try:
        return "klieg.format" in read_onnx(path.read_bytes()).metadata
    except UnsafeFileError:
        return False  # a classifier may keep its weights beside it, an explainer never does


def _show_explainer(path: Path, classes: bool) -> None:
    from klieg.model_file.explainer_file import read_explainer

    file = read_explainer(path)
    info, facts = file.info, file.facts
    sizes = f"{info.input_size} x {info.input_size} only" if file.fixed_size else "any"
    rows = {
        "file": f"{path} ({len(file.data) / 1e6:.1f} MB)",
        "sha256": file.sha256,
        "original": f"sha256 {info.source_sha256}",
        "graph": f"opset {facts.opset}, {facts.node_count} nodes",
        "precision": info.precision,
        "layer": info.layer,
        **({"masker": info.masker or "no name"} if "mask" in file.outputs else {}),
        "image size": f"{sizes}, made for {info.input_size}",
        "scales": ", ".join(map(str, info.scales)),
        "classes": f"{file.classes}, {'named' if info.class_names else 'no names'}, "
        f"{info.probability}",
        "parity": ", ".join(f"{name} {error:.0e}" for name, error in info.parity.items()),
        "written by": ", ".join(f"{name} {version}" for name, version in info.versions.items()),
    }
    for name, tensor in facts.inputs.items():
        rows[f"in {name}"] = f"{tensor.dtype} {_shape(tensor.shape)}"
    for name, tensor in facts.outputs.items():
        rows[f"out {name}"] = f"{tensor.dtype} {_shape(tensor.shape)}"
    _echo_rows(rows)
    if classes:
        width = max(map(len, rows))
        for index, name in enumerate(info.class_names or ()):
            click.echo(f"{index:>{width}}  {name}")


def _show_classifier(path: Path, everything: bool) -> bool:
    """Show a bare classifier; return whether it can be exported."""
    model = _load(path)
    from klieg.export.inspection.classifier import inspect_model

    found = inspect_model(model)
    rows = {
        "file": f"{path} ({path.stat().st_size / 1e6:.1f} MB)",
        "kind": "a bare classifier; `klieg export` makes an explainer of it",
        "graph": f"opset {found.opset}, {found.nodes} nodes",
    }
    for tensor in found.inputs:
        image = "  <- the image" if tensor.name == found.image else ""
        rows[f"in {tensor.name}"] = f"{tensor.dtype} {_shape(tensor.shape)}{image}"
    for tensor in found.outputs:
        rows[f"out {tensor.name}"] = f"{tensor.dtype} {_shape(tensor.shape)}"
    rows["score"] = _score(found)
    rows["layer"] = f"{found.default_layer or 'not found'} (default)"
    _echo_rows(rows)
    _echo_maps(found, everything)
    _echo_rules(found)
    for problem in found.problems:
        click.echo(f"\ncannot be exported as it is: {problem}")
    return not found.problems


def _score(found: Inspection) -> str:
    if found.score is None:
        return "not found"
    before = f", before {found.final_operator}" if found.final_operator else ""
    classes = "" if found.classes is None else f", {found.classes} classes"
    return f"{found.score}{before}{classes}"


def _echo_maps(found: Inspection, everything: bool) -> None:
    if not found.feature_maps:
        return
    size = found.image_size
    click.echo(f"\nfeature maps for an image of {size} x {size}, * the default layer")
    shapes = max(len(_shape(one.shape)) for one in found.feature_maps)
    operators = max(len(one.operator) for one in found.feature_maps)
    room = WIDTH - shapes - operators - 6
    for (height, width), run in groupby(found.feature_maps, lambda one: one.shape[2:]):
        maps = list(run)
        listed = maps if everything else _shortened(maps, found.default_layer)
        for one in listed:
            if one is None:
                click.echo(f"  ... {len(maps) - len(listed) + 1} more of {height} x {width}")
                continue
            star = "*" if one.name == found.default_layer else " "
            name = one.name if everything else _fitted(one.name, room)
            click.echo(f"{star} {_shape(one.shape):<{shapes}}  {one.operator:<{operators}}  {name}")


def _shortened(maps: list[MeasuredMap], default: str | None) -> list[MeasuredMap | None]:
    """Return the first and last maps of a long row with None between, and the default layer."""
    if len(maps) <= RUN:
        return list(maps)
    half = RUN // 2
    middle = [one for one in maps[half:-half] if one.name == default]
    return [*maps[:half], *middle, None, *maps[-half:]]


def _echo_rules(found: Inspection) -> None:
    if found.default_layer is None:
        return
    if not found.without_rule:
        click.echo("\nevery operator between the image and the score has a gradient rule")
        return
    click.echo("\noperators without a gradient rule between the image and the score")
    for operator in found.without_rule:
        where = "behind" if operator.behind_layer else "before"
        click.echo(
            f"  {where} the default layer: {operator.operator}, node {operator.node!r}, "
            f"computes {operator.computes!r}"
        )


def _show_lint(path: Path) -> bool:
    """Print what TensorRT refuses; return whether that is nothing."""
    model = _load(path)
    from klieg.export.inspection.tensorrt_lint import lint

    findings = lint(model)
    for finding in findings:
        click.echo(f"{finding.node}: {finding.operator}: {finding.reason}")
    nodes = len(model.graph.node)
    if not findings:
        click.echo(f"TensorRT: nothing on the denylist among {nodes} nodes")
    else:
        click.echo(f"TensorRT: {len(findings)} on the denylist among {nodes} nodes")
    return not findings


def _load(path: Path) -> Any:
    try:
        from klieg.export.classifiers.onnx_classifier import load_onnx
    except ImportError as error:
        raise ExportError(
            f"looking into a bare ONNX model needs {error.name}: pip install 'klieg[export]'"
        ) from error
    return load_onnx(path)


def _echo_rows(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for key, text in rows.items():
        click.echo(f"{key:<{width}}  {text}")


def _fitted(text: str, room: int) -> str:
    """Shorten a long name in its middle."""
    if len(text) <= room:
        return text
    half = (room - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
