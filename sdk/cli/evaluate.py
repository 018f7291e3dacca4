"""klieg evaluate: scores of methods on photos that people marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import klieg.cli.options as shared
from klieg.cli.engine import engine_options, open_explainer
from klieg.cli.parameters import Names


@click.command(short_help="Score methods on a data set.")
@shared.EXPLAINER
@click.argument("dataset", type=click.Path(path_type=Path))
@shared.output("the scores")
@shared.METHODS
@click.option(
    "--metrics",
    type=Names(),
    help="pointing, pointing_difficult, localisation_error, official_metric, soft_f1, pxap, "
    "max_box_acc, saliency_metric, rho_plus, rho_minus, average_drop, average_increase, "
    "insertion, deletion, compactness, entropy. Default: pointing, localisation_error, pxap, "
    "saliency_metric, rho_plus and rho_minus.",
)
@click.option(
    "--layout",
    type=click.Choice(["folder", "voc", "coco", "ilsvrc", "wsol", "dicom"]),
    default="folder",
    show_default=True,
    help="folder: images/ beside boxes.csv, or beside masks/ and instances.csv.",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    help="COCO: the instances JSON file. WSOL: the folder with a split's lists.",
)
@click.option("--split", help="VOC and WSOL: which list of photos. Default: test.")
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    help="JSON file: {category: class, or list of classes}. Default: names or numbers of classes.",
)
@click.option(
    "--targets",
    type=click.Choice(["labelled", "predicted"]),
    default="labelled",
    show_default=True,
    help="Explain every category on a photo, or the predicted class against all its objects.",
)
@shared.fit("stretch")
@shared.binarise("What counts as salient where a metric needs a region or a box.")
@shared.SCALES
@shared.METHOD_OPTIONS
@shared.BATCH_SIZE
@engine_options
def evaluate(
    explainer: Path,
    dataset: Path,
    output: Path,
    methods: list[str],
    metrics: list[str] | None,
    layout: Any,
    annotations: Path | None,
    split: str | None,
    classes: Path | None,
    targets: Any,
    fit: Any,
    binarise: Any,
    scales: list[int] | None,
    options: tuple[tuple[str, float], ...],
    batch_size: int,
    **engine: Any,
) -> None:
    """Score the maps of the file EXPLAINER on the photos of DATASET.

    Beside the methods stand maps that know nothing of the classifier: a square and a bell in the
    centre, noise, edges, and the whole image. The output folder gets scores.csv with a line per
    photo, category and method, summary.json and summary.md with confidence intervals, plots, and
    each method's worst and best examples. Started again after an interruption, the same command
    goes on where it was.
    """
    from klieg import evaluation

    given: dict[str, Any] = {} if metrics is None else {"metrics": tuple(metrics)}
    asked = evaluation.EvaluationOptions(
        methods=tuple(methods),
        targets=targets,
        fit=fit,
        rule=binarise,
        batch_size=batch_size,
        scales=None if scales is None else tuple(scales),
        method_options=dict(options),
        **given,
    )
    with open_explainer(explainer, **engine) as opened:
        data = evaluation.open_dataset(dataset, layout=layout, annotations=annotations, split=split)
        finder = evaluation.ClassFinder.of(opened, mapping=classes)
        with click.progressbar(length=len(data), label="evaluating", show_pos=True) as bar:
            summary = evaluation.evaluate(
                opened,
                data,
                output,
                classes=finder,
                options=asked,
                progress=lambda done, _: bar.update(done - bar.pos),
            )
        click.echo(f"scored {summary.questions} questions on {summary.photos} photos")
        for kind, number in summary.problems.items():
            click.echo(f"  {number} x {kind}")
        click.echo(f"see {output / 'summary.md'}")
