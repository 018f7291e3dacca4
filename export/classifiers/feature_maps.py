"""Feature maps: tensors in which a classifier still knows where things are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from klieg.export.autodiff.emitter import Emitter, dims, graph_values
from klieg.export.session import Session

Shape = Sequence[int]
Layout = Literal["channels first", "channels last", "tokens"]
T = TypeVar("T", bound=np.generic)
_POINTWISE: Final = frozenset(
    {"Add", "Cast", "Div", "Dropout", "Identity", "Mul", "Softmax", "Sub", "Where"}
)
_FLOAT: Final = int(ir.DataType.FLOAT)


@dataclass(frozen=True)
class FeatureMap:
    """How the cells of a feature map lie in a tensor.

    "channels first" is [batch, k, h, w], "channels last" [batch, h, w, k], and "tokens"
    [batch, extra + h * w, k] with a class token or others in front of the cells.
    """

    layout: Layout
    rows: int
    """Of the model's own image size."""
    columns: int
    channels: int
    extra: int = 0
    """Number of tokens that are no cells."""

    def channels_first(self, array: NDArray[T]) -> NDArray[T]:
        """Bring an array of the tensor's shape to [batch, k, h, w]; the grid of tokens is square.

        Tokens that are no cells are left out.
        """
        if self.layout == "channels first":
            return array
        if self.layout == "channels last":
            return array.transpose(0, 3, 1, 2)
        cells = array[:, self.extra :]
        side = math.isqrt(cells.shape[1])
        return cells.transpose(0, 2, 1).reshape(len(array), array.shape[2], side, side)


def feature_map(shape: Shape, larger: Shape | None, *, before_attention: bool) -> FeatureMap | None:
    """Tell whether a tensor is a feature map, from its shape for one or two image sizes.

    Both spatial axes are longer than 1 and, if the model takes images of any size, grow with the
    image: a pool to a fixed grid before a flattened head does not count, since at every scale it
    would hold the same number of cells. If it does not, the grid must be square.

    Args:
        shape: Shape of the tensor for an image of the model's size.
        larger: Its shape for a larger image, None if the model's size is fixed.
        before_attention: Whether the tensor leads to attention. A sequence [batch, n, k] counts
            only then: behind the last attention, tokens no longer reach the score but one.
    """
    rank = len(shape)
    if rank == 4:
        first = _grows(shape, larger, (2, 3), fixed=(1,))
        if first:
            return FeatureMap("channels first", shape[2], shape[3], shape[1])
        if _grows(shape, larger, (1, 2), fixed=(3,)):
            return FeatureMap("channels last", shape[1], shape[2], shape[3])
    if rank == 3 and before_attention and (extra := _extra_tokens(shape, larger)) is not None:
        side = math.isqrt(shape[1] - extra)
        return FeatureMap("tokens", side, side, shape[2], extra)
    return None


def _grows(
    shape: Shape, larger: Shape | None, axes: tuple[int, int], *, fixed: tuple[int, ...]
) -> bool:
    if any(shape[axis] < 2 for axis in axes):
        return False
    if larger is None:
        return shape[axes[0]] == shape[axes[1]]
    return all(shape[axis] < larger[axis] for axis in axes) and all(
        shape[axis] == larger[axis] for axis in fixed
    )


def _extra_tokens(shape: Shape, larger: Shape | None) -> int | None:
    """Return how many tokens are no cells of a square grid of at least 2 x 2, None if too many."""
    for extra in range(9):
        cells = [s[1] - extra for s in (shape, larger) if s is not None]
        if all(n >= 4 and math.isqrt(n) ** 2 == n for n in cells) and len(set(cells)) == len(cells):
            return extra
    return None


def as_channels_first(graph: ir.Graph, value: ir.Value, found: FeatureMap) -> ir.Value:
    """Return a feature map as a float32 value [batch, k, h, w] that the score is computed from.

    Other layouts and types are turned into it and back again on their way, so that the score can
    be differentiated by it.
    """
    op, users = Emitter(graph), list(value.uses())
    result, back, shape = value, value, list(value.shape or [])
    if found.layout == "channels last":
        batch, rows, columns, channels = shape
        result = _shaped(op.Transpose(value, perm=[0, 3, 1, 2]), [batch, channels, rows, columns])
    elif found.layout == "tokens":
        result = _grid(op, value, found)
    if value.dtype not in (None, ir.DataType.FLOAT):
        result = _shaped(op.Cast(result, to=int(ir.DataType.FLOAT)), list(result.shape or []))
        back = _shaped(op.Cast(result, to=int(value.dtype or 0)), list(result.shape or []))
    else:
        back = result
    if result is value:
        return value
    if found.layout == "channels last":
        back = _shaped(op.Transpose(back, perm=[0, 2, 3, 1]), shape)
    elif found.layout == "tokens":
        back = _tokens(op, back, value, found)
    for user, index in users:
        user.replace_input_with(index, back)
    graph.sort()
    return result


def _grid(op: Emitter, tokens: ir.Value, found: FeatureMap) -> ir.Value:
    """Return tokens [batch, extra + h * w, k] as cells [batch, k, h, w]."""
    extra, channels = found.extra, found.channels
    batch, length, _ = list(tokens.shape or [None] * 3)
    cells = rows = columns = None
    grid: ir.Value | list[int] = [0, channels, found.rows, found.columns]
    if isinstance(length, int):
        cells, rows, columns = length - extra, found.rows, found.columns
    else:
        number = op.Cast(op.Sub(op.Shape(tokens, start=1, end=2), [extra]), to=_FLOAT)
        side = op.Cast(op.Sqrt(number), to=int(ir.DataType.INT64))
        grid = op.Concat([0, channels], side, side, axis=0)
    own = _shaped(op.Slice(tokens, [extra], [2**31 - 1], [1]), [batch, cells, channels])
    turned = _shaped(op.Transpose(own, perm=[0, 2, 1]), [batch, channels, cells])
    return _shaped(op.Reshape(turned, grid), [batch, channels, rows, columns])


def _tokens(op: Emitter, grid: ir.Value, tokens: ir.Value, found: FeatureMap) -> ir.Value:
    """Return cells [batch, k, h, w] as tokens again, with those in front that are no cells."""
    extra, channels = found.extra, found.channels
    batch, length, _ = list(tokens.shape or [None] * 3)
    cells = length - extra if isinstance(length, int) else None
    row = _shaped(op.Reshape(grid, [0, channels, -1]), [batch, channels, cells])
    own = _shaped(op.Transpose(row, perm=[0, 2, 1]), [batch, cells, channels])
    if not extra:
        return own
    others = _shaped(op.Slice(tokens, [0], [extra], [1]), [batch, extra, channels])
    return _shaped(op.Concat(others, own, axis=1), [batch, length, channels])


def _shaped(value: ir.Value, sizes: Sequence[int | ir.SymbolicDim | None]) -> ir.Value:
    """Declare the shape of a new value, which rules rely on."""
    value.shape = ir.Shape(sizes)
    return value


def measure_shapes(
    model: ir.Model, names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> list[tuple[int, ...]]:
    """Run an ONNX model and return the shapes of some of its tensors.

    Args:
        model: The model; it is not changed.
        names: The tensors to measure.
        feeds: Content of the model's inputs.

    Raises:
        ExportError: the engine cannot run the model on this input.
    """
    if not names:
        return []
    copy: ir.Model = ir.from_proto(ir.to_proto(model))
    values = {value.name: value for value in graph_values(copy.graph)}
    op = Emitter(copy.graph)
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(op.Shape(values[name]) for name in names)
    proto: onnx.ModelProto = ir.to_proto(copy)
    shapes = Session(proto.SerializeToString()).run(None, feeds)
    return [tuple(int(size) for size in shape) for shape in shapes]


def attention_weights(graph: ir.Graph) -> frozenset[ir.Value]:
    """Return the tensors that hold attention weights, before and after their Softmax.

    They are square like feature maps, and grow with the image, but their axes are tokens.
    """
    found: set[ir.Value] = set()
    for softmax in _attention(graph):
        found.update(softmax.outputs)
        waiting = [softmax.inputs[0]]
        while waiting:
            value = waiting.pop()
            if value is None or value in found or value.shape is None:
                continue
            found.add(value)
            node = value.producer()
            if node is not None and node.op_type in _POINTWISE:
                waiting.extend(node.inputs)
        following = [softmax.outputs[0]]
        while following:
            for node in following.pop().consumers():
                if node.op_type in _POINTWISE and node.outputs[0] not in found:
                    found.add(node.outputs[0])
                    following.append(node.outputs[0])
    return frozenset(found)


def before_last_attention(graph: ir.Graph) -> frozenset[ir.Value]:
    """Return the values that the last attention is computed from, all of whose tokens matter."""
    last = None
    for last in _attention(graph):  # noqa: B007 (the last one is wanted)
        pass
    if last is None:
        return frozenset()
    needed = set(last.inputs)
    for node in reversed(list(graph)):
        if any(output in needed for output in node.outputs):
            needed.update(node.inputs)
    return frozenset(value for value in needed if value is not None)


def _attention(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if node.op_type != "Softmax" or node.domain or node.outputs[0].shape is None:
            continue
        rank = len(dims(node.outputs[0]))
        axis = node.attributes.get("axis")
        if rank >= 3 and (-1 if axis is None else axis.as_int()) % rank == rank - 1:
            yield node
