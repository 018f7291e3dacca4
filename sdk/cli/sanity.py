"""klieg sanity: do maps change when the model forgets what it learned?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import klieg.cli.options as shared
from klieg.cli.parameters import Names
from klieg.model_file.methods import find_method


@click.command(short_help="Test methods by randomising the model.")
@shared.EXPLAINER
@shared.IMAGES
@shared.output("the results")
@shared.METHODS
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
@shared.SCALES
@shared.METHOD_OPTIONS
@shared.fit("crop")
@shared.BATCH_SIZE
def sanity(
    explainer: Path,
    images: list[Path],
    output: Path,
    methods: list[str],
    mode: Any,
    groups: int,
    similarities: list[str],
    seed: int,
    scales: list[int] | None,
    options: tuple[tuple[str, float], ...],
    fit: Any,
    batch_size: int,
) -> None:
    """Compare maps of IMAGES before and after the weights in EXPLAINER are re-initialised.

    The weights are those of the deployed file itself, from the output layer down. Maps of a method
    that stay alike do not show what the model learned. The output folder gets
    randomisation.csv, .md and .png with the similarity of maps by method and layer.
    """
    from klieg.evaluation.options import EvaluationOptions
    from klieg.evaluation.sanity.randomisation import randomisation_test
    from klieg.evaluation.sanity.report import markdown, save_randomisation

    asked = EvaluationOptions(methods=tuple(methods), method_options=dict(options))
    results = {}
    with click.progressbar(methods, label="randomising", show_pos=True) as bar:
        for method in bar:
            results[method] = randomisation_test(
                explainer,
                images,
                method=method,
                mode=mode,
                groups=groups,
                seed=seed,
                similarities=similarities,
                scales=scales if find_method(method).multi_scale else None,
                fit=fit,
                batch_size=batch_size,
                **asked.of_method(method),
            )
    save_randomisation(results, output)
    click.echo(markdown(results))
    click.echo(f"see {output / 'randomisation.png'}")
