"""Re-initialisation of the weights of the classifier in an explainer file.

For the model parameter randomisation test of Adebayo et al.: Sanity checks for saliency maps,
NeurIPS 2018. Needs onnx alone.

The gradients in an explainer file read the weights of the classifier themselves, turned by
operators where need be, so that they are the gradients of whatever weights stand there. Constants
that follow from weights (see `derived_weights`) are computed again: rectified weights and the signs
of scales, for excitation backpropagation, and the slope of a batch normalisation that no
convolution took in.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from klieg.errors import ExportError
from klieg.export.derived_weights import derived_weights
from klieg.export.randomised.weight_graph import KERNELS, MATRICES, WeightGraph, WeightUse
from klieg.storage.atomic import atomic_path

NORMALISATIONS: Final = frozenset(
    {"BatchNormalization", "InstanceNormalization", "LayerNormalization"}
)


@dataclass(frozen=True)
class Weight:
    """One initialiser of the classifier."""

    name: str
    fan: int
    """The fan that scales the draw: see `reinitialised`."""
    spread: bool
    """True for the normal draw of kernels and matrices, False for the uniform one of vectors."""


@dataclass(frozen=True)
class Layer:
    """A convolution, a matrix product or a normalisation with the vectors that follow it."""

    name: str
    weights: tuple[Weight, ...]


def layers(model: onnx.ModelProto) -> list[Layer]:
    """Return the layers between image and logits that can be re-initialised, last layer first.

    Layers are ordered by the length of their longest path to the logits. What only other outputs
    need is left out: a masking model, the backward passes. Vectors that are added or multiplied
    (biases, scales) belong to the layer whose output they change; tables, such as the positions of
    a transformer, and running statistics stay what they are, and so do vectors in front of the
    first layer: they normalise the image. Weights that several layers share belong to the last.

    Args:
        model: An explainer file.

    Raises:
        ExportError: there is no layer, or the weights of one are quantised.
    """
    graph = WeightGraph(model)
    heads: list[WeightUse] = []
    parts: dict[str, list[WeightUse]] = {}  # by the output of the head
    layer_of: dict[str, str] = {}  # tensor -> output of the head upstream
    for node in graph.nodes:
        uses = graph.uses(node)
        head = next((use for use in uses if _starts_layer(use)), None)
        upstream = max(
            (layer_of[name] for name in graph.data(node) if name in layer_of),
            key=graph.position,
            default=None,
        )
        if head is not None:
            heads.append(head)
            upstream = node.output[0]
        if upstream is not None:
            parts.setdefault(upstream, []).extend(uses)
            layer_of.update(dict.fromkeys(node.output, upstream))
    heads.sort(key=lambda use: (graph.depth(use.node), -graph.position(use.node.output[0])))
    found, taken = [], set[str]()
    for head in heads:
        uses = [use for use in parts[head.node.output[0]] if use.name not in taken]
        weights = {use.name: _weight(use) for use in uses if _is_vector(use) or _starts_layer(use)}
        if weights:
            taken.update(weights)
            found.append(Layer(_readable(next(iter(weights))), tuple(weights.values())))
    if not found:
        raise ExportError("found no weights between image and logits, expected an explainer file")
    return found


def parsed(data: bytes) -> onnx.ModelProto:
    """Return the model in the bytes of an explainer file."""
    return onnx.load_model_from_string(data)


def reinitialised(
    model: onnx.ModelProto, chosen: Sequence[Layer], *, seed: int = 0
) -> onnx.ModelProto:
    """Return a copy of an explainer file with the weights of some layers re-initialised.

    Kernels are drawn from N(0, 2 / (out kh kw)), with `out` per group, matrices from
    N(0, 2 / in), vectors of n entries uniformly from +-1 / sqrt(n). That is the published draw but
    for `out` per group: a channel of a depthwise kernel feeds one channel, not all. With all
    counted the network fades to its biases (EfficientNet-Lite0: logits of eight photos differ by
    4e-9 in place of 0.2). Where a batch normalisation was folded into a convolution at export, its
    scale is gone with the old weights; the draw keeps the size of gradients through Relus by
    itself, so that nothing overflows.

    A weight depends on its name and the seed alone, whichever other layers are chosen: the
    cascading and the independent test see the same draws. The metadata stay, the measured parity
    among them, which was that of the original weights.

    Args:
        model: An explainer file.
        chosen: Some of `layers(model)`.
        seed: Seed of the draws, 0 or more.

    Raises:
        ExportError: the file does not note which constants follow from weights, see
            `derived_weights`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    drawn = {weight.name for layer in chosen for weight in layer.weights}
    for layer in chosen:
        for weight in layer.weights:
            _replace(tensors[weight.name], _draw(weight, tensors[weight.name], seed))
    for name, derived in derived_weights(model).items():
        if not drawn.isdisjoint(derived.sources):
            sources = [onnx.numpy_helper.to_array(tensors[source]) for source in derived.sources]
            constant = derived.computed(sources).reshape(tensors[name].dims)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensors[name].data_type)
            _replace(tensors[name], constant.astype(dtype))
    return copy


def save(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write an explainer file, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def _starts_layer(use: WeightUse) -> bool:
    operator = use.node.op_type
    if operator in KERNELS or operator in NORMALISATIONS:
        return use.operand == 1
    return operator in MATRICES and use.operand < 2 and len(use.shape) > 1


def _is_vector(use: WeightUse) -> bool:
    """Return whether at most one axis is longer than 1."""
    return math.prod(use.shape) == max(use.shape)


def _weight(use: WeightUse) -> Weight:
    sizes, operator = use.shape, use.node.op_type
    if not _starts_layer(use) or operator in NORMALISATIONS:
        return Weight(use.name, math.prod(sizes), spread=False)
    if operator in KERNELS:
        # Conv has [out, in / group, ...], ConvTranspose [in, out / group, ...].
        out = sizes[0] // use.group if operator == "Conv" else sizes[1]
        return Weight(use.name, out * math.prod(sizes[2:]), spread=True)
    return Weight(use.name, math.prod(sizes) // (sizes[0] if use.turned else sizes[-1]), True)


def _draw(weight: Weight, tensor: onnx.TensorProto, seed: int) -> NDArray[Any]:
    digest = hashlib.sha256(weight.name.encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    if weight.spread:
        values = generator.normal(0, math.sqrt(2 / weight.fan), tensor.dims)
    else:
        bound = 1 / math.sqrt(weight.fan)
        values = generator.uniform(-bound, bound, tensor.dims)
    return np.asarray(values, dtype=onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _replace(tensor: onnx.TensorProto, array: NDArray[Any]) -> None:
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _readable(name: str) -> str:
    """Return the name of a module from that of its weight, as torch's tracer writes it."""
    return name.removeprefix("module.").removesuffix(".weight")
