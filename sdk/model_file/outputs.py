"""The outputs of an explainer file: what each one is, and which option of the export adds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output of an explainer file, float32."""

    rows: Literal["image", "target"]
    """Whether it has a row per image, or a row per image and class asked for."""
    form: Literal["classes", "layer", "image", "mask"]
    """[rows, classes], or [rows, channels, height, width] of the layer, of the image, or of a mask,
    which has the image's size and one channel."""
    option: str | None = None
    """The option of `klieg export` that adds it; None for an output of every file."""
    additive: bool = True
    """False if, for several classes of one image, it is not the sum of what it is for each."""
    checked: bool = False
    """True if every pass looks for NaN in it, which can leave a gradient finite and plausible."""
    compared: bool = False
    """True if the original model gives its truth at export; the others are proved by tests."""


OUTPUTS: Final[Mapping[str, Output]] = MappingProxyType(
    {
        "logits": Output(rows="image", form="classes", checked=True, compared=True),
        "activation": Output(rows="image", form="layer", compared=True),
        "gradient": Output(rows="target", form="layer", compared=True),
        "image_gradient": Output(
            rows="target", form="image", compared=True, option="--methods saliency"
        ),
        "guided_gradient": Output(
            rows="target", form="image", additive=False, option="--methods guided_backprop"
        ),
        "deconvnet_gradient": Output(
            rows="target", form="image", additive=False, option="--methods deconvnet"
        ),
        "excitation": Output(rows="target", form="layer", option="--methods excitation_backprop"),
        "contrast": Output(rows="target", form="layer", option="--methods contrastive_excitation"),
        "mask": Output(
            rows="image", form="mask", checked=True, compared=True, option="--masker NAME"
        ),
    }
)


def remedy(output: str) -> str:
    """Return how a file gets an output that it lacks, for an error."""
    if output not in OUTPUTS:
        return f"no klieg exports it, expected one of {', '.join(OUTPUTS)}"
    return f"export the model again with `{OUTPUTS[output].option}`"


ALWAYS: Final = frozenset(name for name, output in OUTPUTS.items() if output.option is None)
"""Outputs of every explainer file."""
