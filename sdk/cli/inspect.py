"""klieg inspect: what an explainer file says about itself."""

from __future__ import annotations

from pathlib import Path

import click

from klieg.cli.failure import reported


@click.command(short_help="Show what an explainer file contains.")
@click.argument("explainer", type=click.Path(path_type=Path))
@click.option("--classes", is_flag=True, help="List the class names as well.")
def inspect(explainer: Path, classes: bool) -> None:
    """Show what the file EXPLAINER contains. Nothing of it is executed."""
    with reported():
        from klieg.explainer_file import read_explainer

        file = read_explainer(explainer)
    info, facts = file.info, file.facts
    sizes = f"{info.input_size} x {info.input_size} only" if file.fixed_size else "any"
    rows = {
        "file": f"{explainer} ({len(file.data) / 1e6:.1f} MB)",
        "sha256": file.sha256,
        "original": f"sha256 {info.source_sha256}",
        "graph": f"opset {facts.opset}, {facts.node_count} nodes",
        "layer": info.layer,
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
    width = max(map(len, rows))
    for key, text in rows.items():
        click.echo(f"{key:<{width}}  {text}")
    if classes:
        for index, name in enumerate(info.class_names or ()):
            click.echo(f"{index:>{width}}  {name}")


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
