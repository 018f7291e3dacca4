"""Comparison of an explainer in mixed precision with the same explainer in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from klieg.errors import ParityError
from klieg.export.instrument.precision import MOVES
from klieg.export.parity.original import output_names, relative_error
from klieg.export.random_images import Probes
from klieg.export.session import Session
from klieg.model_file.outputs import OUTPUTS

STRUCTURE_LIMIT: Final = 1e-3
"""Largest error without rounding. The operators are the same: it is 0 where the engine fuses them
alike, and at 16 architectures 2e-4 at most (EfficientNet-B0, gradient at the image)."""

ROUNDING_LIMIT: Final[Mapping[str, float]] = {"float16": 0.1, "bfloat16": 0.5}
"""Largest error of logits, activation and mask that rounding may cause. Measured on images of noise
at 16 architectures: up to 0.03 and 0.23 (RegNet-Y)."""

FORWARD: Final = tuple(name for name, output in OUTPUTS.items() if output.rows == "image")

_FLOATS: Final = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
)
_LOWER: Final = _FLOATS[1:]


def against_float32(
    mixed: onnx.ModelProto, original: onnx.ModelProto, probes: Probes, *, precision: str
) -> dict[str, float]:
    """Compare an explainer in mixed precision with the explainer it was made from.

    Rounding turns Relus on and off that sit near 0, which changes the gradients of whole receptive
    fields: at the image by 20 % in float16 though nothing is wrong. A limit as wide as that would
    excuse wrong graphs. So three things are checked: without rounding and with the original weights
    the converted graph computes what the original does; every stored weight is the original one,
    rounded; with rounding the forward pass stays near, and every output finite.

    Args:
        mixed: What `to_mixed_precision` made.
        original: An instrumented classifier.
        probes: The inputs to compare at.
        precision: "float32", "float16" or "bfloat16".

    Returns:
        The largest relative error of every output with rounding, `logits_float16` and so on;
        nothing for "float32".

    Raises:
        ParityError: one of the three is not so.
    """
    if precision == "float32":
        return {}
    names = output_names(original)
    graphs = {
        "exact": in_float32(original),
        "same": _without_rounding(mixed, original),
        "rounded": emulated(mixed),
    }
    sessions = {key: Session(graph.SerializeToString()) for key, graph in graphs.items()}
    same, rounded = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for feeds in probes:
        got = {key: session.run(names, feeds) for key, session in sessions.items()}
        for index, name in enumerate(names):
            exact = got["exact"][index]
            same[name] = max(same[name], relative_error(got["same"][index], exact))
            rounded[name] = max(rounded[name], relative_error(got["rounded"][index], exact))
    _check(same, dict.fromkeys(names, STRUCTURE_LIMIT), precision, "outputs without rounding")
    limits = {n: ROUNDING_LIMIT[precision] if n in FORWARD else _FINITE for n in names}
    _check(rounded, limits, precision, "outputs")
    return {f"{name}_{precision}": error for name, error in rounded.items()}


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph that rounds wherever one in mixed precision does.

    ONNX Runtime's CPU has no convolution in bfloat16, and between two operators without a float16
    kernel it leaves out the rounding. Here every tensor of lower precision is rounded by a Cast to
    it and back. Sums inside an operator are those of float32, as on the tensor cores of GPUs.
    """
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    copy = in_float32(model)
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            low = types.get(name)
            if low not in _LOWER or node.op_type in MOVES:
                continue
            exact, rounded = f"{name}/exact", f"{name}/rounded"
            node.output[index] = exact
            nodes.append(onnx.helper.make_node("Cast", [exact], [rounded], to=low))
            nodes.append(onnx.helper.make_node("Cast", [rounded], [name], to=_FLOATS[0]))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model whose floating-point tensors are all float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for tensor in copy.graph.initializer:
        if tensor.data_type in _LOWER:
            _set(tensor, onnx.numpy_helper.to_array(tensor))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i in _LOWER:
                attribute.i = _FLOATS[0]
            if attribute.HasField("t") and attribute.t.data_type in _LOWER:
                _set(attribute.t, onnx.numpy_helper.to_array(attribute.t))
    return copy


def _without_rounding(mixed: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """Return a mixed-precision graph in float32 with the weights of the original.

    Raises:
        ParityError: its own are not those, rounded.
    """
    sources = {tensor.name: tensor for tensor in original.graph.initializer}
    copy = in_float32(mixed)
    for own, tensor in zip(mixed.graph.initializer, copy.graph.initializer, strict=True):
        source = sources.get(own.name) or sources[own.name.rpartition("/")[0]]
        stored, exact = onnx.numpy_helper.to_array(own), onnx.numpy_helper.to_array(source)
        if not np.array_equal(stored, exact.astype(stored.dtype)):
            raise ParityError(
                f"the weights {own.name!r} in {stored.dtype} are not those of the original, "
                "rounded; nothing was written. Please report it with the model"
            )
        if own.data_type in _FLOATS:
            _set(tensor, exact)
    return copy


def _set(tensor: onnx.TensorProto, content: NDArray[Any]) -> None:
    array = content.astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


_FINITE: Final = np.finfo(np.float64).max


def _check(
    errors: Mapping[str, float], limits: Mapping[str, float], precision: str, what: str
) -> None:
    wrong = {name: error for name, error in errors.items() if not error <= limits[name]}
    if wrong:
        listed = ", ".join(f"{name} {error:.1e}" for name, error in wrong.items())
        raise ParityError(
            f"in {precision} the explainer disagrees with itself in float32: {what} have a "
            f"relative error of {listed}, at most {min(limits[name] for name in wrong):.0e} is "
            "accepted; nothing was written. If it is much larger, numbers may leave the range of "
            f"{precision}: export the model in float32, or in bfloat16"
        )
