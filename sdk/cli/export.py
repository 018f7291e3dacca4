"""klieg export: from a classifier to an explainer file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klieg.cli.parameters import Assignment, Names, Numbers
from klieg.errors import ExportError

if TYPE_CHECKING:
    from klieg.training import TrainedMasker


@click.command(short_help="Turn a classifier into an explainer file.")
@click.argument("source", required=False)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The explainer file."
)
@click.option(
    "--layer",
    help="The layer to explain: a sub-module's path for torch, a tensor or node for ONNX. "
    "Default: the last feature map.",
)
@click.option("--input-size", type=click.IntRange(min=1), help="Height and width in pixels.")
@click.option("--mean", type=Numbers(), help="Mean per channel in 0..1 units.")
@click.option("--std", type=Numbers(), help="Standard deviation per channel in 0..1 units.")
@click.option(
    "--class-names",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A text file with one class name per line.",
)
@click.option(
    "--methods",
    type=Names(),
    help="Methods that the file has to serve besides those of the layer's gradient, such as "
    "saliency,guided_backprop; or all.",
)
@click.option(
    "--masker",
    metavar="NAME",
    help="Add a masker for the method casm: one that comes with klieg, or the masker.safetensors "
    "of `klieg train`.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="In which convolutions and matrix products compute and weights are stored; inputs, "
    "outputs and gradients stay float32. float32 leaves the model as it is.",
)
@click.option("--image", metavar="NAME", help="For ONNX: the input that is the image.")
@click.option("--score", metavar="NAME", help="For ONNX: the output with a score per class.")
@click.option(
    "--set",
    "settings",
    type=Assignment(),
    multiple=True,
    help="For ONNX: the fixed value of another input, such as age=40. May be repeated.",
)
def export(
    source: str | None,
    output: Path,
    layer: str | None,
    input_size: int | None,
    mean: list[float] | None,
    std: list[float] | None,
    class_names: Path | None,
    methods: list[str] | None,
    masker: str | None,
    precision: Any,
    image: str | None,
    score: str | None,
    settings: tuple[tuple[str, float], ...],
) -> None:
    """Turn a classifier into one ONNX file that contains its own gradient.

    SOURCE is an .onnx file, a Python function MODULE:FUNCTION that returns a torch module, or
    efficientnet-lite0 (real ImageNet weights, from the extra klieg[demo]). With --masker it may be
    left out: the masker knows what it was trained for.

    The result is compared with the original before it is written.
    """
    from klieg.export.classifiers.sources import open_source

    trained = None if masker is None else _open_masker(masker)
    if trained is not None:  # it knows what it was trained for
        source = source or trained.options.classifier
        mean, std = mean or _listed(trained.options.mean), std or _listed(trained.options.std)
    if source is None:
        raise click.UsageError("Missing argument 'SOURCE' (or option '--masker').")
    found = open_source(
        source,
        input_size=input_size,
        mean=mean,
        std=std,
        class_names=None if class_names is None else class_names.read_text().splitlines(),
    )
    if trained is not None:
        from klieg.training.maskers import deployed_source

        found = deployed_source(found, trained)
    from klieg.export import export_classifier

    report = export_classifier(
        found.model,
        output,
        layer=layer,
        input_size=found.input_size,
        mean=found.mean,
        std=found.std,
        class_names=found.class_names,
        methods=methods or (),
        masker=None if trained is None else trained.masker,
        masker_name=masker,
        precision=precision,
        image=image,
        score=score,
        fixed_inputs=dict(settings),
    )
    size = report.path.stat().st_size / 1e6
    click.echo(f"wrote   {report.path} ({size:.1f} MB)")
    click.echo(f"layer   {report.layer}")
    click.echo(f"serves  {', '.join(report.methods)}")
    targets = "several" if report.several_targets else "one"
    click.echo(f"targets {targets} per image in one pass")
    outputs = len(report.outputs)
    click.echo(f"nodes   {report.nodes_before} before, {report.nodes_after} with {outputs} outputs")
    errors = ", ".join(f"{name} {error:.0e}" for name, error in report.parity.items())
    click.echo(f"parity  relative error: {errors}")
    if report.fixed_size:
        click.echo("note    the model takes one image size only: no multi-scale methods")


def _open_masker(name: str) -> TrainedMasker:
    """Open a masker, which is a network of the training extra."""
    try:
        from klieg.training.maskers import open_masker
    except ImportError as error:
        raise ExportError(f"a masker needs {error.name}: pip install 'klieg[train]'") from error
    return open_masker(name)


def _listed(numbers: tuple[float, ...] | None) -> list[float] | None:
    return None if numbers is None else list(numbers)
