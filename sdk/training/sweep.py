"""Several runs that differ in some options, for ablations. Finished runs are not done again."""

from __future__ import annotations

import csv
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from klieg.errors import OptionError
from klieg.storage.table import write_table
from klieg.training.model.trained_masker import load_masker
from klieg.training.run import MASKER, SCORES, train
from klieg.training.settings.configuration import (
    merged,
    options_from_table,
    table_of,
    with_absolute_paths,
)
from klieg.training.settings.options import TrainingOptions

RESULTS: Final = "results.csv"
Row = dict[str, str]


def read_sweep(
    options: TrainingOptions, path: str | os.PathLike[str]
) -> dict[str, TrainingOptions]:
    """Read the runs of a sweep.

    Args:
        options: What all runs have in common.
        path: A TOML file with a table [runs.NAME] per run, whose entries replace options.

    Raises:
        OptionError: the file cannot be read, or an option is unknown or has an impossible value.
    """
    try:
        runs = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("runs")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"cannot read {path} as a sweep: {error}") from error
    if not isinstance(runs, dict) or not all(isinstance(run, dict) for run in runs.values()):
        raise OptionError(f"{path} has no runs, expected tables named [runs.NAME]")
    found = {}
    for name, changes in runs.items():
        try:
            found[name] = options_from_table(merged(table_of(options), changes))
        except OptionError as error:
            raise OptionError(f"{path}, run {name!r}: {error}") from error
    return found


def run_sweep(
    options: TrainingOptions,
    sweep: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    accelerator: str = "auto",
    devices: int = 1,
    progress: bool = True,
) -> Iterator[Row]:
    """Do the runs of a sweep that are not done yet, each in a folder of its name.

    Args:
        options: What all runs have in common.
        sweep: See `read_sweep`.
        folder: For the folders of the runs, and results.csv with a row per run.
        accelerator: See `train`.
        devices: See `train`.
        progress: See `train`.

    Yields:
        After each run its name and its last scores on held-out photos.

    Raises:
        KliegError: as `read_sweep` before the first run, or as `train`.
    """
    root, rows = Path(folder), []
    for name, run in read_sweep(options, sweep).items():
        if not _is_finished(run, root / name):
            train(run, root / name, accelerator=accelerator, devices=devices, progress=progress)
        rows.append({"run": name, **_last_scores(root / name / SCORES)})
        write_table(root / RESULTS, rows)
        yield rows[-1]


def _is_finished(options: TrainingOptions, folder: Path) -> bool:
    """Return whether the folder holds the masker of just this run."""
    path = folder / MASKER
    wanted = table_of(with_absolute_paths(options, Path()))
    return path.exists() and table_of(load_masker(path).options) == wanted


def _last_scores(path: Path) -> Row:
    """Return the last row of a table of scores, nothing if no photos were held out."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return {name: value for name, value in rows[-1].items() if name != "step"} if rows else {}
