"""From a classifier to an explainer file, compared with its original before it is written."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike

from klieg.errors import ExportError, OptionError
from klieg.export.classifiers.onnx_classifier import (
    GraphClassifier,
    TensorNames,
    larger_size,
    load_onnx,
)
from klieg.export.derived_weights import NOTE
from klieg.export.instrument.graph import instrument
from klieg.export.instrument.outputs import BACKWARD
from klieg.export.instrument.precision import checked_precision, to_mixed_precision
from klieg.export.instrument.repeat import NotRepeatableError
from klieg.export.parity import original as parity
from klieg.export.parity.onnx_original import open_onnx
from klieg.export.parity.original import Original
from klieg.export.parity.precision import against_float32
from klieg.export.random_images import Probes
from klieg.model_file.explainer_file import ExplainerInfo, Precision
from klieg.model_file.methods import METHODS, find_method
from klieg.storage.atomic import atomic_path

if TYPE_CHECKING:
    import torch

    from klieg.export.classifiers.torch_masker import MaskHead

ALL: Final = "all"
IMAGENET_SIZE: Final = 224
SCALES: Final = 8
PUBLISHED_STEP: Final = 100 / 224
"""CAMERAS' published sizes are 224, 324, ..., 924; other input sizes keep the same ratios."""


@dataclass(frozen=True)
class ExportReport:
    """The result of `export_classifier`."""

    path: Path
    """The explainer file."""
    layer: str
    """The layer whose activation is explained."""
    fixed_size: bool
    """True if the model takes images of `input_size` only: no multi-scale methods."""
    parity: dict[str, float]
    """Relative error of each output against the original."""
    nodes_before: int
    """Number of operators of the classifier."""
    nodes_after: int
    """Number of operators of the explainer."""
    outputs: tuple[str, ...]
    """The outputs of the file."""
    methods: tuple[str, ...]
    """The methods that the file can serve."""
    several_targets: bool
    """True if one pass answers for several classes of an image."""


def export_classifier(
    model: torch.nn.Module | onnx.ModelProto | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    layer: str | None = None,
    input_size: int = IMAGENET_SIZE,
    mean: Sequence[float],
    std: Sequence[float],
    class_names: Sequence[str] | None = None,
    methods: Sequence[str] = (),
    image: str | None = None,
    score: str | None = None,
    fixed_inputs: Mapping[str, ArrayLike] | None = None,
    masker: MaskHead | None = None,
    masker_name: str | None = None,
    precision: Precision = "float32",
) -> ExportReport:
    """Turn a classifier into one ONNX file that contains its own gradient.

    Logits, activation and gradients are compared with torch autograd on seeded inputs at two sizes
    and two classes; for a bare ONNX model the gradients are compared with finite differences in
    float64 instead. The errors go into the file.

    Where the graph allows it, one pass takes several targets per image: what is in front of the
    layer then runs once per image. Ask for outputs of the image's shape with one target per image:
    `image_gradient` is the sum over targets, and the other two are no such sum.

    Args:
        model: A torch module, an ONNX model or the path of an `.onnx` file that maps normalised
            images [batch, channels, height, width] to logits [batch, classes]. An ONNX model may
            take [batch, height, width, channels] and float16; a final Softmax or Sigmoid of it is
            stepped over.
        output: Where the explainer file is to stand; it is replaced only by a complete file.
        layer: For torch the path of a sub-module ("layer4.1"), for ONNX the name of a tensor or a
            node; None picks the last feature map before the spatial axes vanish.
        input_size: Height and width in pixels of the images the model was made for.
        mean: Mean per channel of the images the model was trained on, in 0..1 units.
        std: Standard deviation per channel, in 0..1 units.
        class_names: One name per class.
        methods: Names of explanation methods that the file has to serve, or "all". Those that need
            logits, activation and gradient only are always served.
        image: For ONNX, the name of the input that is the image, if several have rank 4.
        score: For ONNX, the name of the output [batch, classes], if there are several.
        fixed_inputs: For ONNX, a number or an array for every input besides the image.
        masker: For torch, a head that turns activations of the model into a mask, for "casm"; see
            `torch_masker.MaskHead`. The classifier in the file stays what it is.
        masker_name: Name or description of the masker, for people who look into the file.
        precision: In which convolutions and matrix products compute and weights are stored, see
            `to_mixed_precision`; "float32" leaves the model as it is. Inputs and outputs of the
            file are the same. Its errors against float32 go into the file, too.

    Returns:
        What was written: the chosen layer, the measured errors, the size of the graph.

    Raises:
        OptionError: an option has an impossible value.
        ExportError: the model is no such classifier, or the layer is not in it.
        UnsupportedOperatorError: an operator behind the layer has no gradient rule.
        ParityError: the result disagrees with the original by more than 1e-3, or in a lower
            precision with itself in float32 by more than that explains.
    """
    checked_precision(precision)
    means, stds = _checked_statistics(mean, std)
    if input_size < 1:
        raise OptionError(f"input_size is {input_size}, expected pixels, at least 1")
    if masker is None and masker_name is not None:
        raise OptionError(f"masker_name is {masker_name!r}, but there is no masker: pass both")
    outputs = _outputs_for(methods, masked=masker is not None)
    names = TensorNames(layer=layer, image=image, score=score, fixed_inputs=fixed_inputs or {})

    original = classify(
        model, names=names, masker=masker, input_size=input_size, mean=means, std=stds
    )
    classifier = original.classifier
    _check_class_names(class_names, classifier.score.classes)
    exact, several_targets = _instrumented(classifier, outputs, means, stds, input_size)
    final = to_mixed_precision(exact, precision)
    sizes = [input_size] if classifier.fixed_size else [input_size, larger_size(input_size)]
    probes = Probes(sizes, channels=len(means), classes=classifier.score.classes)
    errors = parity.checked(original.errors(exact, probes))
    errors |= against_float32(final, exact, probes, precision=precision)
    info = ExplainerInfo(
        layer=classifier.layer,
        input_size=input_size,
        scales=(input_size,) if classifier.fixed_size else default_scales(input_size),
        source_sha256=classifier.source_sha256,
        mean=tuple(means),
        std=tuple(stds),
        class_names=None if class_names is None else tuple(class_names),
        probability=classifier.score.probability,
        parity=errors,
        versions=_versions(),
        masker=masker_name,
        precision=precision,
    )
    _write(final, info, Path(output))
    written = tuple(parity.output_names(final))
    return ExportReport(
        path=Path(output),
        layer=classifier.layer,
        fixed_size=classifier.fixed_size,
        parity=errors,
        nodes_before=classifier.model.graph.num_nodes(),
        nodes_after=len(final.graph.node),
        outputs=written,
        methods=_served(written, fixed_size=classifier.fixed_size),
        several_targets=several_targets,
    )


def default_scales(input_size: int) -> tuple[int, ...]:
    """Return the image sizes of CAMERAS for a model made for `input_size`."""
    return tuple(round(input_size * (1 + PUBLISHED_STEP * step)) for step in range(SCALES))


def _served(outputs: Collection[str], *, fixed_size: bool) -> tuple[str, ...]:
    """Return the names of the methods that need these outputs only."""
    return tuple(
        name
        for name, method in METHODS.items()
        if {*method.outputs} <= {*outputs} and not (fixed_size and method.multi_scale)
    )


def _instrumented(
    classifier: GraphClassifier,
    outputs: Sequence[str],
    mean: list[float],
    std: list[float],
    input_size: int,
) -> tuple[onnx.ModelProto, bool]:
    """Instrument for several targets per image if that works, else for one."""
    try:
        model = instrument(classifier, mean=mean, std=std, outputs=outputs, several_targets=True)
    except NotRepeatableError:
        pass
    else:
        proto = ir.to_proto(model)
        error = parity.of_several_targets(
            proto, size=input_size, channels=len(mean), classes=classifier.score.classes
        )
        # What kinks may cost in float32; a wrong graph is off by much more.
        if error <= parity.KINK_LIMIT:
            return proto, True
    return ir.to_proto(instrument(classifier, mean=mean, std=std, outputs=outputs)), False


def classify(
    model: torch.nn.Module | onnx.ModelProto | str | os.PathLike[str],
    *,
    names: TensorNames,
    masker: MaskHead | None,
    input_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Original:
    """Open a classifier of any kind and find its image, logits and layer.

    Raises:
        OptionError: an option is for the other kind.
        ExportError: see `export_classifier`.
    """
    if isinstance(model, str | os.PathLike):
        model = load_onnx(Path(model))
    if isinstance(model, onnx.ModelProto):
        if masker is not None:
            raise OptionError("masker is for torch modules, got ONNX: export the original module")
        return open_onnx(model, names=names, input_size=input_size, mean=mean, std=std)
    if names != TensorNames(layer=names.layer):
        raise OptionError("image, score and fixed_inputs are for ONNX models, got a torch module")
    from klieg.export.parity.torch_original import open_torch

    return open_torch(
        model, layer=names.layer, masker=masker, input_size=input_size, mean=mean, std=std
    )


def _outputs_for(methods: Sequence[str], *, masked: bool) -> list[str]:
    """Return the outputs that methods need besides logits, activation and mask."""
    if isinstance(methods, str):
        raise OptionError(f"methods is {methods!r}, expected a list of names such as [{methods!r}]")
    named = {name: find_method(name) for name in methods if name != ALL}
    for name, method in named.items():
        if "mask" in method.outputs and not masked:
            raise OptionError(f"method {name!r} needs a masking model: pass masker (--masker NAME)")
    asked = METHODS if ALL in methods else named
    needed = {output for method in asked.values() for output in method.outputs}
    return [output for output in BACKWARD if output == "gradient" or output in needed]


def _checked_statistics(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel; OptionError unless they are in 0..1 units."""
    means, stds = [float(m) for m in mean], [float(s) for s in std]
    if len(means) != len(stds) or not means:
        raise OptionError(f"got {len(means)} means and {len(stds)} stds, expected one per channel")
    if not all(0 <= m <= 1 for m in means) or not all(0 < s <= 1 for s in stds):
        raise OptionError(
            f"mean {means} and std {stds} must be in 0..1 units: "
            "divide by 255 if they are for 0..255"
        )
    return means, stds


def _check_class_names(names: Sequence[str] | None, classes: int) -> None:
    """Raise OptionError unless there is one name per class, or none at all."""
    if isinstance(names, str) or (names is not None and len(names) != classes):
        raise OptionError(
            f"got {len(names)} class names for {classes} classes, expected one per class"
        )


def _write(proto: onnx.ModelProto, info: ExplainerInfo, output: Path) -> None:
    """Write an explainer file.

    Args:
        proto: An instrumented classifier; it gets the metadata.
        info: What the file says about itself.
        output: Replaced only by a complete file.

    Raises:
        ExportError: the graph is no valid model, or too large for one file.
    """
    notes = {entry.key: entry.value for entry in proto.metadata_props if entry.key == NOTE}
    onnx.helper.set_model_props(proto, info.to_properties() | notes)
    proto.producer_name, proto.producer_version = "klieg", info.versions["klieg"]
    try:
        onnx.checker.check_model(proto, full_check=True)
        data = proto.SerializeToString(deterministic=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"the explainer is not a valid single-file model: {error}") from error
    with atomic_path(output) as temporary:
        temporary.write_bytes(data)


def _versions() -> dict[str, str]:
    """Return the versions of the packages that write the file."""
    packages = ("klieg", "onnx", "onnx-ir", "torch", "numpy")
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # torch is not needed for a bare ONNX model
    return found
