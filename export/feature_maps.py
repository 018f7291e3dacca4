"""Finding the last feature map: the tensor in which a classifier still knows where things are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from klieg.errors import ExportError
from klieg.export.autodiff.emitter import Emitter, graph_values
from klieg.export.session import open_session

Shape = Sequence[int]


def last_feature_map(shapes: Sequence[Shape], larger: Sequence[Shape] | None) -> int:
    """Return the index of the last feature map among tensors in order of computation.

    A feature map has rank 4 and both spatial axes longer than 1. If the model takes images of any
    size, the axes must also grow with the image: a pool to a fixed grid before a flattened head
    does not count, since at every scale it would hold the same number of cells.

    Args:
        shapes: Shape of each tensor for an image of the model's size.
        larger: Shape of each tensor for an image larger in height and width, None if the model's
            size is fixed.

    Raises:
        ExportError: no tensor qualifies.
    """
    for index in reversed(range(len(shapes))):
        spatial = shapes[index][2:]
        if len(shapes[index]) != 4 or min(spatial) < 2:
            continue
        if larger is None or all(a < b for a, b in zip(spatial, larger[index][2:], strict=True)):
            return index
    raise ExportError(
        "found no feature map [batch, channels, height, width] on the way to the logits: "
        "name the layer to explain"
    )


def measure_shapes(
    model: ir.Model, names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> list[tuple[int, ...]]:
    """Run an ONNX model and return the shapes of some of its tensors.

    Args:
        model: The model; it is not changed.
        names: The tensors to measure.
        feeds: Content of the model's inputs.

    Raises:
        ExportError: the engine refuses the model.
    """
    copy: ir.Model = ir.from_proto(ir.to_proto(model))
    values = {value.name: value for value in graph_values(copy.graph)}
    op = Emitter(copy.graph)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(op.Shape(values[name]) for name in names)
    proto: onnx.ModelProto = ir.to_proto(copy)
    try:
        session = open_session(proto.SerializeToString())
        shapes = session.run(None, dict(feeds)) if names else []
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot run the model: {error}") from error
    return [tuple(int(size) for size in shape) for shape in shapes]
