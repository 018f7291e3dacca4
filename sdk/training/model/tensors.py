"""Tensors and their description in one file: safetensors, never pickle, complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from klieg.errors import CheckpointError
from klieg.storage.atomic import atomic_path

_KEY: Final = "klieg"


@dataclass(frozen=True)
class TensorFile:
    """The content of a file of tensors."""

    kind: str
    description: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with `name` and a slash, without that."""
        start = f"{name}/"
        return {
            key.removeprefix(start): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(start)
        }


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, kind: str, description: Mapping[str, Any]
) -> None:
    """Write a file; one that stands there already is replaced only by a complete one.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    header = {_KEY: json.dumps({"kind": kind, **description})}
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(copies, str(temporary), metadata=header)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write {path}: {error}; what was written before is untouched: free space and "
            "start again to go on from there"
        ) from error


def read_tensors(path: Path, *, kind: str) -> TensorFile:
    """Read a file that `write_tensors` wrote.

    Raises:
        CheckpointError: it cannot be read, is damaged, or of another kind.
    """
    try:
        with safe_open(str(path), framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if header.get("kind") != kind:
        raise CheckpointError(f"{path} holds {header.get('kind')!r}, expected {kind!r}")
    return TensorFile(kind, header, tensors)
