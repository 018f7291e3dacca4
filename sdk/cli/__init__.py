"""The command line. Heavy packages are imported by the commands that need them."""

from __future__ import annotations

from typing import Any

import click

from klieg.cli.bench import bench
from klieg.cli.build import build
from klieg.cli.doctor import doctor
from klieg.cli.evaluate import evaluate
from klieg.cli.explain import explain
from klieg.cli.export import export
from klieg.cli.inspect import inspect
from klieg.cli.sanity import sanity
from klieg.cli.train import train
from klieg.errors import KliegError


class KliegGroup(click.Group):
    """Commands that fail in one line, without a traceback and with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Turn klieg's own errors into messages; anything else is a bug and keeps its traceback."""
        try:
            return super().invoke(ctx)
        except KliegError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=KliegGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="klieg")
def main() -> None:
    """Explain what an image classifier saw.

    Turn a classifier into an explainer file once (export), then explain photos with it on any
    machine (explain). Masks in a single pass come from a masker (train), TensorRT engines for an
    NVIDIA GPU from the GPU's own machine (build).
    """


for command in (export, build, explain, inspect, evaluate, sanity, train, bench, doctor):
    main.add_command(command)
