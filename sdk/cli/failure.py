"""How commands report failure: one line, no traceback, exit code 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from klieg.errors import KliegError


@contextmanager
def reported() -> Iterator[None]:
    """Turn klieg's own errors into messages; anything else is a bug and keeps its traceback."""
    try:
        yield
    except KliegError as error:
        raise click.ClickException(str(error)) from error
