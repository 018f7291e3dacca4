"""The image among the inputs of an ONNX model, its layout, and the values of other inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from klieg.errors import ExportError, OptionError
from klieg.export.autodiff.emitter import Emitter, dims

TO_CHANNELS_LAST: Final = [0, 2, 3, 1]


@dataclass(frozen=True)
class ImageInput:
    """The image among the inputs of the original model."""

    name: str
    channels_last: bool
    dtype: np.dtype[Any]
    one_by_one: bool
    """True if the original takes batches of one image only."""
    fixed_inputs: Mapping[str, NDArray[Any]]
    """Values of the other inputs, with a batch axis of 1 where they have one."""
    batched: frozenset[str]
    """Those of the other inputs that have a batch axis."""

    def feeds(self, images: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
        """Return the inputs of the original for normalised images [B, C, H, W]."""
        laid_out = images.transpose(TO_CHANNELS_LAST) if self.channels_last else images
        fixed = {
            name: np.repeat(value, len(images), axis=0) if name in self.batched else value
            for name, value in self.fixed_inputs.items()
        }
        return {self.name: np.ascontiguousarray(laid_out, dtype=self.dtype), **fixed}


def with_dynamic_batch(
    proto: onnx.ModelProto, image_name: str | None
) -> tuple[onnx.ModelProto, bool]:
    """Let a model that was exported for one image take any number of them.

    Args:
        proto: A model; it is not changed.
        image_name: Name of the image among its inputs, None if it is the only one of rank 4.

    Returns:
        The model, and whether its batch was fixed to 1. Whether more images really work has to be
        tried: a Reshape may insist on one.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    found = [
        value
        for value in copy.graph.input
        if len(value.type.tensor_type.shape.dim) == 4 and image_name in (None, value.name)
    ]
    if len(found) != 1 or found[0].type.tensor_type.shape.dim[0].dim_value != 1:
        return proto, False
    for value in (*copy.graph.input, *copy.graph.output):
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) and sizes[0].dim_value == 1:
            sizes[0].dim_param = "batch"
    del copy.graph.value_info[:]
    return copy, True


def prepare_image(
    graph: ir.Graph,
    *,
    channels: int,
    input_size: int,
    name: str | None,
    fixed_inputs: Mapping[str, ArrayLike],
    one_by_one: bool,
) -> tuple[ir.Value, ImageInput]:
    """Make the image the only input of a graph, float32 [batch, channels, height, width].

    Args:
        graph: A classifier in normal form; it is changed.
        channels: Number of channels of an image.
        input_size: Height and width of the images it is made for.
        name: Name of the image among its inputs, None if it is the only one of rank 4.
        fixed_inputs: A number or an array for each other input.
        one_by_one: Whether the original takes one image at a time only.

    Returns:
        The input, and what has to be known to feed the original.

    Raises:
        ExportError: there is no such input, or it cannot hold such images.
        OptionError: another input has no value, or an impossible one.
    """
    original = _find(graph, name)
    sizes = dims(original)
    channels_last = sizes[1] != channels and sizes[3] == channels
    batch, have, height, width = (sizes[i] for i in (0, 3, 1, 2)) if channels_last else sizes
    if have not in (None, channels):
        raise ExportError(
            f"input {original.name!r} has shape {original.shape}, but mean and std are for "
            f"{channels} channels; expected [batch, channels, height, width] "
            "or [batch, height, width, channels]"
        )
    if height not in (None, input_size) or width not in (None, input_size):
        raise ExportError(
            f"input {original.name!r} takes {height} x {width} pixels only: pass that as "
            f"input_size (got {input_size}; other than square sizes are not supported)"
        )
    if batch is not None:
        raise ExportError(
            f"input {original.name!r} has a fixed batch of {batch}: export the model with a "
            "dynamic batch axis"
        )
    dtype = (original.dtype or ir.DataType.FLOAT).numpy()
    fixed = _fixed_values(graph, original, fixed_inputs)
    batched = frozenset(str(v.name) for v in graph.inputs if v is not original and _batched(v))
    info = ImageInput(str(original.name), channels_last, dtype, one_by_one, fixed, batched)
    image = _as_channels_first(graph, original, channels_last)
    batch_axis, _, *spatial = list(image.shape or [])
    image.shape = ir.Shape([batch_axis, channels, *spatial])
    _set_inputs(graph, image, fixed)
    return image, info


def _find(graph: ir.Graph, name: str | None) -> ir.Value:
    listed = [f"{value.name} {value.shape}" for value in graph.inputs]
    if name is not None:
        for value in graph.inputs:
            if value.name == name and value.shape is not None and len(value.shape) == 4:
                return value
        raise ExportError(f"the model's inputs are {listed}: none of rank 4 is named {name!r}")
    images = [value for value in graph.inputs if _may_be_image(value)]
    if not images:
        raise ExportError(
            f"the model's inputs are {listed}, expected an image [batch, channels, height, width]"
        )
    if len(images) > 1:
        raise ExportError(
            f"the model's inputs are {listed}: name the image with image=... (--image)"
        )
    return images[0]


def _fixed_values(
    graph: ir.Graph, image: ir.Value, given: Mapping[str, ArrayLike]
) -> dict[str, NDArray[Any]]:
    others = {str(value.name): value for value in graph.inputs if value is not image}
    unknown, missing = given.keys() - others.keys(), others.keys() - given.keys()
    if unknown:
        raise OptionError(
            f"fixed_inputs names {sorted(unknown)}, but the inputs besides the image are "
            f"{sorted(others)}"
        )
    if missing:
        raise OptionError(
            f"the model has inputs besides the image {image.name!r}: {sorted(missing)}; give each "
            "a fixed value with fixed_inputs={name: value} (--set), or name another image with "
            "image=... (--image)"
        )
    values = {}
    for name, value in others.items():
        sizes = [1 if size is None else size for size in dims(value)]
        try:
            array = np.asarray(given[name], dtype=(value.dtype or ir.DataType.FLOAT).numpy())
            values[name] = np.array(np.broadcast_to(array, sizes))
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"fixed input {name!r} is {given[name]!r}, expected a value of type {value.dtype} "
                f"and shape {value.shape}"
            ) from error
    return values


def _as_channels_first(graph: ir.Graph, original: ir.Value, channels_last: bool) -> ir.Value:
    """Put an input of float32 [batch, channels, height, width] in front of the original one."""
    original_type = original.dtype
    if not channels_last and original_type == ir.DataType.FLOAT:
        return original
    sizes: list[Any] = list(original.shape or [])
    if channels_last:
        sizes = [sizes[0], sizes[3], sizes[1], sizes[2]]
    image = ir.Value(
        name=f"{original.name}/image", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(sizes)
    )
    op, value = Emitter(graph), image
    if original_type is not None and original_type != ir.DataType.FLOAT:
        if not original_type.is_floating_point():
            raise ExportError(
                f"input {original.name!r} is {original_type}, expected floating point: cut the "
                "conversion of bytes off the model, klieg normalises by itself"
            )
        value = op.Cast(value, to=int(original_type))
        value.shape = image.shape
    if channels_last:
        value = op.Transpose(value, perm=TO_CHANNELS_LAST)
        value.shape = original.shape
    original.replace_all_uses_with(value)
    graph.inputs.remove(original)
    graph.inputs.insert(0, image)
    graph.sort()
    return image


def _set_inputs(graph: ir.Graph, image: ir.Value, fixed: Mapping[str, NDArray[Any]]) -> None:
    """Replace the other inputs by constants, repeated for every image of a batch."""
    op = Emitter(graph)
    for value in list(graph.inputs):
        if value is image:
            continue
        constant = op.constant(fixed[str(value.name)])
        if _batched(value):
            batch = op.Shape(image, start=0, end=1)
            rest = [1] * (len(dims(value)) - 1)
            constant = op.Expand(constant, op.Concat(batch, rest, axis=0) if rest else batch)
            constant.shape = value.shape
        value.replace_all_uses_with(constant)
        graph.inputs.remove(value)
    graph.sort()


def _batched(value: ir.Value) -> bool:
    sizes = dims(value)
    return bool(sizes) and sizes[0] is None


def _may_be_image(value: ir.Value) -> bool:
    """Return whether a value has rank 4 and room for more than one pixel."""
    if value.shape is None or len(value.shape) != 4:
        return False
    return sum(size == 1 for size in dims(value)[1:]) < 2
