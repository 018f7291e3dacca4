"""Options as a TOML file, and back, so that the file alone reproduces a run."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pydantic
import tomli_w

from klieg.errors import OptionError
from klieg.storage.atomic import atomic_path
from klieg.training.settings.options import (
    NETWORK_SUFFIXES,
    CriticOptions,
    DataOptions,
    MaskerOptions,
    ObjectiveOptions,
    OptimiserOptions,
    TrainingOptions,
)

# The published recipes; what is not given here has the default of its option. CASM: Zolna et al.,
# the released code's table of `--reproduce`; lambda is the weight of the size term. Simplified:
# Phang et al., the released fix.json and ca.json with taps 3 and 4.
_CASM_OPTIMISER: Final = {"epochs": 60, "batch_size": 128, "share_per_epoch": 0.2}
_CASM_MASKER: Final = {"decoder": "casm", "raw_first": True}
_NEVER: Final = 10_000_000


def _casm(lambda_: float, **critics: Any) -> dict[str, Any]:
    return {
        "masker": _CASM_MASKER,
        "objective": {"out_entropy": 1.0, "size_out": lambda_},
        "critics": {"taps": "trained", **critics},
        "optimiser": _CASM_OPTIMISER,
    }


def _simplified(lambda_out: float, **critics: Any) -> dict[str, Any]:
    return {
        "masker": {"decoder": "simplified"},
        "objective": {
            "out_entropy": 1.0,
            "in_classification": 1.0,
            "size_out": lambda_out,
            "size_in": 1.0,
            "variation": 0.001,
        },
        "critics": critics,
        "optimiser": {"epochs": 60, "batch_size": 72, "share_per_epoch": 0.2},
    }


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "casm-f": _casm(2.5, regime="fixed"),
        "casm-l": _casm(14, regime="agnostic", historic=0),
        "casm-fl": _casm(7.5, regime="agnostic", historic=0.5, snapshot_every=_NEVER),
        "casm-l100": _casm(10, regime="agnostic", historic=0.5, snapshot_every=100),
        "casm-l1000": _casm(10, regime="agnostic", historic=0.5, snapshot_every=1000),
        "simplified-fix": _simplified(10, regime="fixed"),
        "simplified-ca": _simplified(
            15, regime="agnostic", taps="trained", historic=0.5, snapshot_every=100, use_pool=False
        ),
    }
)
"""In the order of the papers; "casm-l100" is CASM as it is usually meant."""


def read_options(path: str | os.PathLike[str]) -> TrainingOptions:
    """Read a config file.

    `preset = "simplified-ca"` starts from a named preset; what else stands in the file replaces
    the preset's values. Relative paths are taken from the folder of the file.

    Raises:
        OptionError: the file cannot be read, or an option is unknown or has an impossible value.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"cannot read {path} as a config file: {error}") from error
    try:
        return with_absolute_paths(options_from_table(table), Path(path).parent)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error


def with_absolute_paths(options: TrainingOptions, folder: Path) -> TrainingOptions:
    """Return options whose relative paths are taken from a folder.

    A run writes its options into another folder than the one they were read from.
    """
    infill = options.infill
    if infill.endswith(NETWORK_SUFFIXES):
        infill = os.path.abspath(folder / infill)
    data = dataclasses.replace(options.data, path=os.path.abspath(folder / options.data.path))
    return dataclasses.replace(options, data=data, infill=infill)


def write_options(options: TrainingOptions, path: Path) -> None:
    """Write all options, defaults included."""
    with atomic_path(path) as temporary:
        temporary.write_text(tomli_w.dumps(table_of(options)), encoding="utf-8")


def options_from_table(table: Mapping[str, Any]) -> TrainingOptions:
    """Turn nested tables into options.

    Raises:
        OptionError: an option is unknown or has an impossible value.
    """
    values = dict(table)
    preset = values.pop("preset", None)
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise OptionError(f"unknown preset {preset!r}, expected one of {', '.join(PRESETS)}")
        values = merged(PRESETS[preset], values)
    try:
        return pydantic.TypeAdapter(TrainingOptions).validate_python(values)
    except pydantic.ValidationError as error:
        raise OptionError("; ".join(map(_in_words, error.errors()))) from error


def table_of(options: TrainingOptions) -> dict[str, Any]:
    """Return options as nested tables; what is None is left out, as TOML has no such value."""
    return _without_none(dataclasses.asdict(options))


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables with the values of `changes` in place of those of `base`."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merged(old, value)
        result[key] = value
    return result


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else _plain(value)
        for key, value in table.items()
        if value is not None
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _in_words(error: Any) -> str:
    """Say what is wrong with one option."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        near = difflib.get_close_matches(path.rpartition(".")[2], _option_names(), n=3)
        return f"there is no option {path!r}" + (
            f": did you mean {' or '.join(near)}?" if near else ""
        )
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"option {path!r} is missing"
    return f"{path or 'options'} is {error.get('input')!r}: {error['msg']}"


def _option_names() -> list[str]:
    tables = (
        TrainingOptions,
        MaskerOptions,
        ObjectiveOptions,
        CriticOptions,
        DataOptions,
        OptimiserOptions,
    )
    return [field.name for table in tables for field in dataclasses.fields(table)]
