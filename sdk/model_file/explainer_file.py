"""The explainer file: what its metadata says, how it is written down, read and checked.

One `.onnx` with nothing beside it. Inputs: `image` float32 [batch, channels, height, width], RGB in
0..255, and `target` int64 [batch], -1 for the predicted class. Outputs: `logits` [batch, classes],
`activation` [batch, k, h, w], `gradient` of the same shape or [batch, k, 1, 1] where it is the same
everywhere. A file made for more methods also has some of `image_gradient`, `guided_gradient`,
`deconvnet_gradient` (of the shape of the image), `excitation` and `contrast` (of the shape of the
activation), and one with a masking model `mask` float32 [batch, 1, height, width] in 0..1, the same
for every class. If `target` is [targets] instead, it takes n classes per image, those of the first
image first: `gradient`, `excitation` and `contrast` then have batch * n rows, and the image is
passed forward once. Everything else stands in `metadata_props` under `klieg.*`, among it
`klieg.masker`, the name of the masking model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from klieg.errors import ExplainerFileError
from klieg.model_file.onnx_file import OnnxFacts, read_onnx
from klieg.model_file.outputs import ALWAYS, OUTPUTS

FORMAT: Final = 1
LARGEST_SIZE: Final = 2**14
"""Of an image, in pixels."""
Probability = Literal["softmax", "sigmoid"]
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class ExplainerInfo:
    """What an explainer file says about itself."""

    layer: str
    """Name of the layer whose activation is explained, in the words of the original model."""
    input_size: int
    """Height and width in pixels that a photo is fitted to."""
    scales: tuple[int, ...]
    """Default image sizes of multi-scale methods, ascending; one entry if the size is fixed."""
    source_sha256: str
    """Digest of the original model."""
    mean: tuple[float, ...]
    """Mean per channel of the images the model was trained on, in 0..1 units."""
    std: tuple[float, ...]
    """Standard deviation per channel, in 0..1 units."""
    class_names: tuple[str, ...] | None = None
    """One name per class, None if the exporter was given none."""
    probability: Probability = "softmax"
    """How logits become probabilities."""
    parity: Mapping[str, float] = field(default_factory=dict)
    """Relative error of each output against the original, measured at export."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that wrote the file."""
    masker: str | None = None
    """Name or description of the masking model behind `mask`, if it has one."""
    precision: Precision = "float32"
    """In which the heavy operators compute; "float32" leaves them as the original has them."""

    def to_properties(self) -> dict[str, str]:
        """Return the metadata of the file."""
        entries = {"format": FORMAT, "kind": "instrumented-classifier"}
        entries |= {one.name: getattr(self, one.name) for one in fields(self)}
        return {f"klieg.{key}": json.dumps(value, default=dict) for key, value in entries.items()}


@dataclass(frozen=True)
class ExplainerFile:
    """An explainer file in memory, checked."""

    path: Path
    data: bytes
    info: ExplainerInfo
    facts: OnnxFacts
    sha256: str

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return _fixed(self.facts.inputs["image"].shape[1])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return _fixed(self.facts.outputs["logits"].shape[1])

    @property
    def outputs(self) -> frozenset[str]:
        """What the file can compute."""
        return frozenset(self.facts.outputs)

    @property
    def several_targets(self) -> bool:
        """True if the file takes several classes per image in one pass."""
        size = self.facts.inputs["target"].shape[0]
        return isinstance(size, str) and size != self.facts.inputs["image"].shape[0]

    @property
    def fixed_size(self) -> bool:
        """True if the model takes images of one size only."""
        return any(isinstance(size, int) for size in self.facts.inputs["image"].shape[2:])


def read_explainer(path: str | os.PathLike[str]) -> ExplainerFile:
    """Read and check an explainer file; nothing of it is executed.

    Raises:
        ExplainerFileError: the file cannot be read, is no ONNX model, or no explainer.
        UnsafeFileError: the model refers to data outside the file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExplainerFileError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        facts = read_onnx(data)
        info = _info(facts)
        _check_tensors(facts)
        _check_channels(facts, info)
    except ExplainerFileError as error:
        raise type(error)(f"{path}: {error}") from error
    return ExplainerFile(path, data, info, facts, hashlib.sha256(data).hexdigest())


def _info(facts: OnnxFacts) -> ExplainerInfo:
    if "klieg.format" not in facts.metadata:
        raise ExplainerFileError(
            "an ONNX model, but no explainer: turn it into one with `klieg export`"
        )
    values: dict[str, Any] = {}
    for key, text in facts.metadata.items():
        if key.startswith("klieg."):
            try:
                values[key.removeprefix("klieg.")] = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ExplainerFileError(f"metadata {key!r} is not JSON: {text[:80]!r}") from error
    if values["format"] != FORMAT:
        raise ExplainerFileError(
            f"explainer format {values['format']!r}, this version of klieg reads {FORMAT}: "
            "update klieg, or export the model again"
        )
    if values.get("kind") != "instrumented-classifier":
        raise ExplainerFileError(f"unknown kind of explainer {values.get('kind')!r}: update klieg")
    # Files written before there was a choice do not say the precision.
    given = {"class_names": None, "masker": None, "precision": "float32"} | values
    found: dict[str, Any] = {}
    for key, (is_valid, expected) in _FIELDS.items():
        value = given.get(key)
        if not is_valid(value):
            raise ExplainerFileError(
                f"metadata 'klieg.{key}' is {value!r}, expected {expected}: update klieg, or "
                "export the model again"
            )
        found[key] = tuple(value) if isinstance(value, list) else value
    if found["scales"][0] != found["input_size"]:
        raise ExplainerFileError(
            f"metadata 'klieg.scales' is {given['scales']!r}, expected sizes from the input size "
            f"{found['input_size']} on: export the model again"
        )
    return ExplainerInfo(**found)


def _is_number(value: Any, lowest: float, highest: float) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and lowest <= value <= highest
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value, 1, LARGEST_SIZE)


def _is_list(value: Any, is_valid: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_valid, value))


def _is_scales(value: Any) -> bool:
    return _is_list(value, _is_size) and 1 <= len(value) <= 64 and value == sorted(set(value))


def _is_table(value: Any, kind: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, kind) for one in value.values())


_FIELDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "layer": (lambda value: isinstance(value, str), "a string"),
    "input_size": (_is_size, f"1..{LARGEST_SIZE} pixels"),
    "scales": (_is_scales, f"1 to 64 ascending sizes in 1..{LARGEST_SIZE} pixels"),
    "source_sha256": (lambda value: isinstance(value, str), "a string"),
    "mean": (
        lambda value: _is_list(value, lambda one: _is_number(one, 0, 1)),
        "a number in 0..1 per channel",
    ),
    "std": (
        lambda value: _is_list(value, lambda one: _is_number(one, 1e-9, 1)),
        "a number in 0..1, and above 0, per channel",
    ),
    "class_names": (
        lambda value: value is None or _is_list(value, lambda one: isinstance(one, str)),
        "a list of strings",
    ),
    "probability": (get_args(Probability).__contains__, " or ".join(get_args(Probability))),
    "parity": (lambda value: _is_table(value, int | float), "a table of numbers"),
    "versions": (lambda value: _is_table(value, str), "a table of strings"),
    "masker": (lambda value: value is None or isinstance(value, str), "a string"),
    "precision": (get_args(Precision).__contains__, " or ".join(get_args(Precision))),
}
"""What the metadata has to say, besides the format: how it is checked, and what is expected."""


def _check_tensors(facts: OnnxFacts) -> None:
    """Compare the inputs and outputs with what an explainer must have."""
    expected = {"image": (facts.inputs, "float32", 4), "target": (facts.inputs, "int64", 1)}
    for name, output in OUTPUTS.items():
        if name in ALWAYS or name in facts.outputs:
            expected[name] = (facts.outputs, "float32", 2 if output.form == "classes" else 4)
    for name, (tensors, dtype, rank) in expected.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != dtype or len(tensor.shape) != rank:
            raise ExplainerFileError(
                f"no {dtype} tensor {name!r} of rank {rank}: the file is damaged, export it again"
            )
    for name, (tensors, _, _) in expected.items():
        if name == "image" or (name in OUTPUTS and OUTPUTS[name].form in ("classes", "mask")):
            _fixed(tensors[name].shape[1])
    unknown = set(facts.inputs) - {"image", "target"}
    if unknown:
        raise ExplainerFileError(f"unexpected inputs {sorted(unknown)}: export the model again")


def _check_channels(facts: OnnxFacts, info: ExplainerInfo) -> None:
    """Compare the numbers of channels that must be the same."""
    channels = _fixed(facts.inputs["image"].shape[1])
    if not len(info.mean) == len(info.std) == channels:
        raise ExplainerFileError(
            f"{len(info.mean)} means and {len(info.std)} stds for {channels} channels: "
            "export the model again"
        )
    expected_channels = {
        "classes": facts.outputs["logits"].shape[1],
        "layer": facts.outputs["activation"].shape[1],
        "image": channels,
        "mask": 1,
    }
    for name in (name for name in OUTPUTS if name in facts.outputs):
        expected, got = expected_channels[OUTPUTS[name].form], facts.outputs[name].shape[1]
        if isinstance(got, int) and isinstance(expected, int) and got != expected:
            raise ExplainerFileError(
                f"output {name!r} has {got} channels, expected {expected}: export the model again"
            )


def _fixed(size: int | str | None) -> int:
    if not isinstance(size, int):
        raise ExplainerFileError("the numbers of channels and classes must be fixed")
    return size
