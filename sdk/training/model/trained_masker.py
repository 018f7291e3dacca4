"""A trained masker as a file: its weights and the options of its training."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from klieg.errors import CheckpointError, OptionError
from klieg.export.classifiers.weights import weights_sha256
from klieg.training.model.masker import Masker
from klieg.training.model.tensors import read_tensors, write_tensors
from klieg.training.settings.configuration import options_from_table, table_of
from klieg.training.settings.options import TrainingOptions

KIND: Final = "masker"


@dataclass(frozen=True)
class TrainedMasker:
    """A masker with the options and the classifier of its training."""

    masker: Masker
    """In evaluation mode."""
    options: TrainingOptions
    """The run that made it."""
    classifier_sha256: str
    """Digest of the original classifier's weights."""
    classifier: Mapping[str, Tensor] | None = None
    """The weights of the classifier that was trained along, if the masker reads that one."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it appears complete or not at all."""
        tensors = {f"masker/{name}": value for name, value in self.masker.state_dict().items()}
        if self.classifier is not None:
            tensors |= {f"classifier/{name}": value for name, value in self.classifier.items()}
        description = {
            "options": table_of(self.options),
            "widths": list(self.masker.widths),
            "taps": list(self.masker.taps),
            "classifier_sha256": self.classifier_sha256,
        }
        write_tensors(Path(path), tensors, kind=KIND, description=description)

    def deployed(self, original: nn.Module) -> nn.Module:
        """Return the classifier that the masker belongs to: the original, or its trained copy.

        Raises:
            CheckpointError: `original` is not the classifier that the masker was trained for.
        """
        digest = weights_sha256(original)
        if digest != self.classifier_sha256:
            raise CheckpointError(
                "the masker was trained for a classifier with the digest "
                f"{self.classifier_sha256[:12]}, got one with {digest[:12]}: use the weights that "
                "it was trained for"
            )
        if self.classifier is None:
            return original
        trained = copy.deepcopy(original)
        trained.load_state_dict(dict(self.classifier))
        return trained


def load_masker(path: str | os.PathLike[str]) -> TrainedMasker:
    """Read a masker that a run or `TrainedMasker.save` wrote.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or no masker.
    """
    file = read_tensors(Path(path), kind=KIND)
    about: Mapping[str, Any] = file.description
    try:
        options = options_from_table(about["options"])
        named = replace(options.masker, taps=tuple(about["taps"]))
        masker = Masker(named, about["widths"])
        masker.load_state_dict(file.part("masker"))
        digest = str(about["classifier_sha256"])
    except (KeyError, TypeError, RuntimeError, OptionError) as error:
        raise CheckpointError(f"{path} is a damaged masker: {error}") from error
    return TrainedMasker(masker.eval(), options, digest, file.part("classifier") or None)
