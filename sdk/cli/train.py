"""klieg train: train a masker."""

from __future__ import annotations

from pathlib import Path

import click

from klieg.errors import TrainingError


@click.command(short_help="Train a masker.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for the run."
)
@click.option("--sweep", type=click.Path(path_type=Path), help="Train several maskers, see above.")
@click.option("--accelerator", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="GPUs that share each batch.",
)
def train(config: Path, output: Path, sweep: Path | None, accelerator: str, devices: int) -> None:
    """Train a masker as the file CONFIG says: a TOML file, perhaps with a preset.

    The folder gets config.toml, log.csv, pictures, checkpoints and in the end masker.safetensors,
    which `klieg export --masker` turns into an explainer. Started again after an interruption, the
    same command goes on where it was.

    A sweep trains several maskers: each table [runs.NAME] of its file replaces options of CONFIG.
    What is done already is not done again; results.csv in the folder compares the runs.
    """
    try:
        from klieg import training
    except ImportError as error:
        raise TrainingError(f"training needs {error.name}: pip install 'klieg[train]'") from error
    options = training.read_options(config)
    if sweep is None:
        training.train(options, output, accelerator=accelerator, devices=devices)
        click.echo(f"wrote {output / 'masker.safetensors'}")
        return
    for row in training.run_sweep(options, sweep, output, accelerator=accelerator, devices=devices):
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
