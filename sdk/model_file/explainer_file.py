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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from klieg.errors import ExplainerFileError
from klieg.model_file.outputs import ALWAYS, OUTPUTS
from klieg.model_file.wire import OnnxFacts, read_onnx

FORMAT: Final = 1
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
        entries = {
            "format": FORMAT,
            "kind": "instrumented-classifier",
            "layer": self.layer,
            "input_size": self.input_size,
            "scales": list(self.scales),
            "source_sha256": self.source_sha256,
            "mean": list(self.mean),
            "std": list(self.std),
            "class_names": None if self.class_names is None else list(self.class_names),
            "probability": self.probability,
            "parity": dict(self.parity),
            "versions": dict(self.versions),
            "masker": self.masker,
            "precision": self.precision,
        }
        return {f"klieg.{key}": json.dumps(value) for key, value in entries.items()}


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
    return ExplainerInfo(
        layer=_text(values, "layer"),
        input_size=_size(values.get("input_size"), "input_size"),
        scales=_scales(values),
        source_sha256=_text(values, "source_sha256"),
        mean=_statistics(values, "mean", lowest=0),
        std=_statistics(values, "std", lowest=1e-9),
        class_names=_class_names(values),
        probability=cast(Probability, _one_of(values, "probability", get_args(Probability))),
        parity=_table(values, "parity", (int, float)),
        versions=_table(values, "versions", str),
        masker=None if values.get("masker") is None else _text(values, "masker"),
        # Files written before there was a choice do not say it.
        precision=cast(
            Precision, _one_of({"precision": "float32", **values}, "precision", get_args(Precision))
        ),
    )


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise ExplainerFileError(f"metadata 'klieg.{key}' is {value!r}, expected a string")
    return value


def _size(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**14:
        raise ExplainerFileError(f"metadata 'klieg.{key}' has {value!r}, expected 1..16384 pixels")
    return value


def _scales(values: Mapping[str, Any]) -> tuple[int, ...]:
    given = values.get("scales")
    if not isinstance(given, list) or not 1 <= len(given) <= 64:
        raise ExplainerFileError(f"metadata 'klieg.scales' is {given!r}, expected 1 to 64 sizes")
    scales = tuple(_size(size, "scales") for size in given)
    if list(scales) != sorted(set(scales)) or scales[0] != values.get("input_size"):
        raise ExplainerFileError(
            f"metadata 'klieg.scales' is {given!r}, expected ascending sizes from the input size on"
        )
    return scales


def _statistics(values: Mapping[str, Any], key: str, *, lowest: float) -> tuple[float, ...]:
    given = values.get(key)
    numbers = isinstance(given, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and lowest <= v <= 1 for v in given
    )
    if not numbers:
        raise ExplainerFileError(
            f"metadata 'klieg.{key}' is {given!r}, expected a number in 0..1 per channel: "
            "export the model again"
        )
    return tuple(float(value) for value in given)  # type: ignore[union-attr]  # a list: see above


def _class_names(values: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = values.get("class_names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ExplainerFileError("metadata 'klieg.class_names' is not a list of strings")
    return tuple(names)


def _one_of(values: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
    value = values.get(key)
    if value not in known:
        raise ExplainerFileError(
            f"metadata 'klieg.{key}' is {value!r}, expected {' or '.join(known)}: update klieg, or "
            "export the model again"
        )
    return str(value)


def _table(values: Mapping[str, Any], key: str, kind: Any) -> dict[str, Any]:
    table = values.get(key)
    if not isinstance(table, dict) or not all(isinstance(v, kind) for v in table.values()):
        raise ExplainerFileError(f"metadata 'klieg.{key}' is not a table")
    return table


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
