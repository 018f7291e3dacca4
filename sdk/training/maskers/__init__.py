"""Maskers by name or file; those that come with the package lie here, with their runs."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from klieg.errors import OptionError
from klieg.export.classifiers.sources import Source
from klieg.training.model.trained_masker import TrainedMasker, load_masker

SUFFIX: Final = ".safetensors"


def shipped_maskers() -> list[str]:
    """Return the names of the maskers that come with the package."""
    entries = files(__name__).iterdir()
    return sorted(e.name.removesuffix(SUFFIX) for e in entries if e.name.endswith(SUFFIX))


def open_masker(name: str) -> TrainedMasker:
    """Open a masker.

    Args:
        name: One of `shipped_maskers`, or the path of a file that `klieg train` wrote.

    Raises:
        OptionError: there is no such masker.
        CheckpointError: the file is damaged or no masker.
    """
    shipped = shipped_maskers()
    if name not in shipped and not Path(name).is_file():
        raise OptionError(
            f"there is no masker {name!r}: expected one of {', '.join(shipped)}, or the file "
            "masker.safetensors of a `klieg train` folder"
        )
    if name not in shipped:
        return load_masker(name)
    with as_file(files(__name__) / f"{name}{SUFFIX}") as path:
        return load_masker(path)


def deployed_source(source: Source, trained: TrainedMasker) -> Source:
    """Return the classifier that is deployed with a masker: the same, or its trained copy.

    Raises:
        OptionError: the classifier is an ONNX file.
        CheckpointError: the masker was trained for another classifier.
    """
    if isinstance(source.model, Path):
        raise OptionError("a masker belongs to a torch module, got an ONNX file: name the module")
    return replace(source, model=trained.deployed(source.model))
