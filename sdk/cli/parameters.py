"""Kinds of values that options of the command line take."""

from __future__ import annotations

from collections.abc import Callable

import click

from klieg.errors import OptionError


class Numbers(click.ParamType[list[float]]):
    """Comma-separated numbers, one per channel."""

    name = "R,G,B"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        """Parse the numbers."""
        try:
            return [float(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers like 0.485,0.456,0.406", param, ctx)


class Sizes(click.ParamType[list[int]]):
    """Comma-separated image sizes."""

    name = "SIZE,SIZE"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        """Parse the sizes; which are possible is known where they are used."""
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of sizes like 224,324,424", param, ctx)


class Names(click.ParamType[list[str]]):
    """Comma-separated names."""

    name = "NAME,NAME"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """Parse the names; which exist is known where they are used."""
        return [part.strip() for part in value.split(",") if part.strip()]


class Known(click.ParamType[str]):
    """A name that klieg or an installed package knows."""

    name = "NAME"

    def __init__(self, find: Callable[[str], object]) -> None:
        """Take what raises OptionError for an unknown name."""
        self._find = find

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        try:
            self._find(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)
        return value


class Assignment(click.ParamType[tuple[str, float]]):
    """A name and a number."""

    name = "NAME=NUMBER"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Split at the last equals sign: names of tensors may hold some."""
        name, _, text = value.rpartition("=")
        try:
            return name, int(text) if text.lstrip("-").isdigit() else float(text)
        except ValueError:
            self.fail(f"{value!r} is not a name and a number like masks=500", param, ctx)
