"""klieg sanity: do maps change when the model forgets what it learned?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from klieg.cli.explain import listed_files
from klieg.cli.failure import reported
from klieg.cli.parameters import Assignment, Names, Sizes
from klieg.methods.table import METHODS


@click.command(short_help="Test methods by randomising the model.")
@click.argument("explainer", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the results."
)
@click.option(
    "--methods", type=Names(), default="cameras", show_default=True, help="See `klieg explain`."
)
@click.option(
    "--mode",
    type=click.Choice(["cascading", "independent"]),
    default="cascading",
    show_default=True,
    help="Randomise all layers from the output down to one, or one group of layers only.",
)
@click.option(
    "--groups",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Into how many groups neighbouring layers are joined.",
)
@click.option(
    "--similarities",
    type=Names(),
    default="spearman,spearman_absolute,ssim,hog",
    show_default=True,
    help="How maps are compared; spearman_absolute is that of |map - 0.5|.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--scales", type=Sizes(), help="Image sizes of CAMERAS, such as 224,324,424.")
@click.option(
    "--option",
    "method_options",
    multiple=True,
    type=Assignment(),
    help="A number that a method takes, such as masks=500. Repeatable.",
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "letterbox", "stretch"]),
    default="crop",
    show_default=True,
    help="How a photo becomes square.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True)
def sanity(
    explainer: Path,
    images: tuple[str, ...],
    output: Path,
    methods: list[str],
    mode: Any,
    groups: int,
    similarities: list[str],
    seed: int,
    scales: list[int] | None,
    method_options: tuple[tuple[str, float], ...],
    fit: Any,
    batch_size: int,
) -> None:
    """Compare maps of IMAGES before and after the weights in EXPLAINER are drawn anew.

    The weights are those of the deployed file itself, from the output layer down. Maps of a method
    that stay alike do not show what the model learned. The output folder gets
    randomisation.csv, .md and .png with the similarity of maps by method and layer.
    """
    files = listed_files(images)
    given = dict(method_options)
    with reported():
        from klieg.evaluation.options import EvaluationOptions
        from klieg.evaluation.sanity.randomisation import randomisation_test
        from klieg.evaluation.sanity.report import markdown, save_randomisation

        options = EvaluationOptions(methods=tuple(methods), method_options=given)
        results = {}
        with click.progressbar(methods, label="randomising", show_pos=True) as bar:
            for method in bar:
                results[method] = randomisation_test(
                    explainer, files, method=method, mode=mode, groups=groups, seed=seed,
                    similarities=similarities,
                    scales=scales if METHODS[method].multi_scale else None, fit=fit,
                    batch_size=batch_size, **options.of_method(method),
                )  # fmt: skip
        save_randomisation(results, output)
        click.echo(markdown(results))
        click.echo(f"see {output / 'randomisation.png'}")
