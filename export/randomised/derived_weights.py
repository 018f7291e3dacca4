"""Constants of the gradients that were computed from weights at export. Needs onnx alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from klieg.errors import ExportError
from klieg.export.randomised.weight_graph import (
    WEIGHTED,
    WRITTEN,
    WeightGraph,
    WeightUse,
    attribute,
)

Array = NDArray[Any]


@dataclass(frozen=True)
class DerivedWeight:
    """A constant that follows from one weight."""

    name: str
    """The constant."""
    weight: str
    derive: Callable[[Array], Array]
    """Computes the constant from the weight."""


def derived_weights(model: onnx.ModelProto) -> list[DerivedWeight]:
    """Return the constants that must be computed again when weights change.

    The file does not say how a constant came about, so its content tells: it equals what the rules
    of the backward walks make of a weight (`autodiff.rules`: rectified weights and positive scales
    in excitation, the slope of a batch normalisation).

    Raises:
        ExportError: a constant equals what is made of several weights.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    written: dict[bytes, str] = {}  # the exporter writes no content twice
    for name, tensor in tensors.items():
        if name.startswith(WRITTEN):
            written[_key(onnx.numpy_helper.to_array(tensor))] = name
    found: dict[str, DerivedWeight] = {}
    graph = WeightGraph(model)
    for node in graph.nodes:
        for use in graph.uses(node):
            content = onnx.numpy_helper.to_array(tensors[use.name])
            for derive in _derivations(use, tensors):
                name = written.get(_key(derive(content)), "")
                if not name:
                    continue
                if name in found and found[name].weight != use.name:
                    raise ExportError(
                        f"the constant {name!r} may come from {found[name].weight!r} or "
                        f"{use.name!r}, so that neither can be changed: export the model without "
                        "excitation backpropagation"
                    )
                found[name] = DerivedWeight(name, use.name, derive)
    return list(found.values())


def _derivations(
    use: WeightUse, tensors: dict[str, onnx.TensorProto]
) -> Iterator[Callable[[Array], Array]]:
    operator = use.node.op_type
    if operator == "BatchNormalization" and use.operand == 1:
        for axes in (0, 2):  # of a vector, of an image
            yield _per_channel(_slope(use.node, tensors), axes)
            yield _per_channel(_positive, axes)
    elif operator in ("Div", "Mul"):
        yield _positive
    elif operator in WEIGHTED and len(use.shape) > 1:
        yield _rectified
        yield _rectified_negative


def _slope(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> Callable[[Array], Array]:
    variance = onnx.numpy_helper.to_array(tensors[node.input[4]]).astype(np.float64)
    deviation = np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return lambda scale: (scale / deviation).astype(scale.dtype)


def _per_channel(derive: Callable[[Array], Array], axes: int) -> Callable[[Array], Array]:
    """Give what is derived the axes of an image behind that of the channels."""
    return lambda scale: derive(scale).reshape(-1, *[1] * axes)


def _positive(scale: Array) -> Array:
    return (scale > 0).astype(scale.dtype)


def _rectified(weight: Array) -> Array:
    return np.maximum(weight, np.zeros((), weight.dtype))


def _rectified_negative(weight: Array) -> Array:
    return np.maximum(-weight, np.zeros((), weight.dtype))


def _key(array: Array) -> bytes:
    return repr((array.dtype.str, array.shape)).encode() + np.ascontiguousarray(array).tobytes()
