"""Running ONNX graphs in float64: ONNX's reference implementation, some operators replaced.

onnx.reference (onnx 1.23) computes grouped transposed convolutions, some padded pools, the L1 norm
of negative numbers and the channels of LRN wrongly, cannot pad by negative amounts, and slides
windows in Python loops. Quantisation is evaluated without its rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference
import torch
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from torch.nn import functional

Array = NDArray[np.float64]

_SHORTER: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def evaluator(model: onnx.ModelProto) -> onnx.reference.ReferenceEvaluator:
    """Return an evaluator of a model."""
    return onnx.reference.ReferenceEvaluator(
        model,
        new_ops=[
            AveragePool,
            Conv,
            ConvTranspose,
            DequantizeLinear,
            Erf,
            GlobalLpPool,
            GlobalMaxPool,
            LRN,
            LpNormalization,
            LpPool,
            MaxPool,
            Pad,
            QuantizeLinear,
        ],
    )


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model that computes in float64 where its inputs are float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = doubled(onnx.numpy_helper.to_array(tensor))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for node in copy.graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros in float32
            zero = onnx.numpy_helper.from_array(np.zeros(1))
            node.attribute.append(onnx.helper.make_attribute("value", zero))
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i in _SHORTER:
                attribute.i = onnx.TensorProto.DOUBLE
            if attribute.HasField("t"):
                array = doubled(onnx.numpy_helper.to_array(attribute.t))
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(array))
    return copy


def doubled(array: NDArray[Any]) -> NDArray[Any]:
    """Return a floating-point array as float64, any other array unchanged."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array


class _Operator(OpRun):
    op_domain = ""


class Conv(_Operator):
    """Convolution."""

    def _run(self, x: Array, w: Array, bias: Array | None = None, **options: Any) -> tuple[Array]:
        slide = _Slide(x, w.shape[2:], options)
        padded = functional.pad(_tensor(x), slide.torch_pads)
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[slide.axes - 1]
        y = convolve(
            padded,
            _tensor(w),
            None if bias is None else _tensor(bias),
            stride=slide.strides,
            dilation=slide.dilations,
            groups=options.get("group") or 1,
        )
        return (y.numpy(),)


class ConvTranspose(_Operator):
    """Transposed convolution."""

    def _run(self, x: Array, w: Array, bias: Array | None = None, **options: Any) -> tuple[Array]:
        slide = _Slide(x, w.shape[2:], options)
        extra = options.get("output_padding") or [0] * slide.axes
        spread = (
            functional.conv_transpose1d,
            functional.conv_transpose2d,
            functional.conv_transpose3d,
        )[slide.axes - 1]
        y = spread(
            _tensor(x),
            _tensor(w),
            None if bias is None else _tensor(bias),
            stride=slide.strides,
            dilation=slide.dilations,
            groups=options.get("group") or 1,
        )
        begins, ends = slide.begins, [e - more for e, more in zip(slide.ends, extra, strict=True)]
        automatic = options.get("auto_pad") or "NOTSET"
        wanted = options.get("output_shape")
        if wanted is None and automatic.startswith("SAME"):
            wanted = [n * s for n, s in zip(slide.sizes, slide.strides, strict=True)]
        if wanted is not None:
            total = [n - out for n, out in zip(y.shape[2:], wanted[-slide.axes :], strict=True)]
            less, more = [max(t, 0) // 2 for t in total], [t - max(t, 0) // 2 for t in total]
            begins, ends = (less, more) if automatic == "SAME_UPPER" else (more, less)
        # Negative padding cuts; the output padding makes room for cells that no window reaches.
        cut = [-amount for pair in zip(ends, begins, strict=True) for amount in pair]
        return (functional.pad(y, cut[::-1]).contiguous().numpy(),)


class MaxPool(_Operator):
    """Maximum under a window."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        windows = _Slide(x, attributes["kernel_shape"], attributes).windows(x, -np.inf)
        return (windows.amax(dim=tuple(range(x.ndim, windows.ndim))).numpy(),)


class AveragePool(_Operator):
    """Mean under a window."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array]:
        slide = _Slide(x, attributes["kernel_shape"], attributes)
        axes = tuple(range(x.ndim, x.ndim + slide.axes))
        ones = functional.pad(
            torch.ones(x.shape, dtype=torch.float64),
            slide.torch_pads,
            value=float(bool(attributes.get("count_include_pad"))),
        )
        number = slide.cut(ones, 0).sum(dim=axes)
        return ((slide.windows(x, 0).sum(dim=axes) / number).numpy(),)


class LpPool(_Operator):
    """Norm under a window."""

    def _run(self, x: Array, p: int | None = None, **attributes: Any) -> tuple[Array]:
        windows = _Slide(x, attributes["kernel_shape"], attributes).windows(x, 0)
        axes = tuple(range(x.ndim, windows.ndim))
        return (torch.linalg.vector_norm(windows, ord=p or 2, dim=axes).numpy(),)


class GlobalLpPool(_Operator):
    """Norm of an image."""

    def _run(self, x: Array, p: int | None = None) -> tuple[Array]:
        axes = tuple(range(2, x.ndim))
        norm = torch.linalg.vector_norm(_tensor(x), ord=p or 2, dim=axes, keepdim=True)
        return (norm.numpy(),)


class GlobalMaxPool(_Operator):
    """Maximum of an image."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class Erf(_Operator):
    """Error function; onnx.reference rounds it to float32."""

    def _run(self, x: Array) -> tuple[Array]:
        return (torch.special.erf(_tensor(x)).numpy(),)


class LRN(_Operator):
    """Normalisation by the squares of neighbouring channels."""

    def _run(self, x: Array, alpha: float, beta: float, bias: float, size: int) -> tuple[Array]:
        squares = np.zeros_like(x)
        for channel in range(x.shape[1]):
            first = max(channel - (size - 1) // 2, 0)
            squares[:, channel] = (x[:, first : channel + size // 2 + 1] ** 2).sum(axis=1)
        return (x / (bias + alpha / size * squares) ** beta,)


class LpNormalization(_Operator):
    """Division by the L1 or L2 norm along an axis."""

    def _run(self, x: Array, axis: int, p: int) -> tuple[Array]:
        return (x / np.linalg.norm(x, ord=p, axis=axis, keepdims=True),)


class Pad(_Operator):
    """A border; negative amounts cut."""

    def _run(
        self,
        x: Array,
        pads: NDArray[np.int64],
        value: Array | None = None,
        axes: NDArray[np.int64] | None = None,
        mode: str = "constant",
    ) -> tuple[Array]:
        amounts = np.zeros((x.ndim, 2), dtype=np.int64)
        amounts[range(x.ndim) if axes is None else axes] = pads.reshape(2, -1).T
        cut = tuple(
            slice(max(-begin, 0), size - max(-end, 0))
            for (begin, end), size in zip(amounts, x.shape, strict=True)
        )
        options = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        return (np.pad(x[cut], np.maximum(amounts, 0), mode=mode, **options),)  # type: ignore[call-overload]


class QuantizeLinear(_Operator):
    """Values in units of a scale, cut off but not rounded.

    Rounding has no derivative to compare with. Without it a pair of QuantizeLinear and
    DequantizeLinear is the identity, whose derivative is the gradient that passes straight through;
    values are still cut off, half a step beyond both ends of their type, where rounding would begin
    to move them by more than that.
    """

    def _run(
        self, x: Array, scale: Array, zero: NDArray[Any] | None = None, axis: int = 1, **_: Any
    ) -> tuple[Array]:
        limits = np.iinfo(np.uint8 if zero is None else zero.dtype)
        values = x / _along(scale, x, axis) + (0 if zero is None else _along(zero, x, axis))
        return (values.clip(limits.min - 0.5, limits.max + 0.5),)


class DequantizeLinear(_Operator):
    """The way back."""

    def _run(
        self,
        x: NDArray[Any],
        scale: Array,
        zero: NDArray[Any] | None = None,
        axis: int = 1,
        **_: Any,
    ) -> tuple[Array]:
        values = x.astype(np.float64) - (0 if zero is None else _along(zero, x, axis))
        return (values * _along(scale, x, axis),)


def _along(parameter: NDArray[Any], x: NDArray[Any], axis: int) -> Array:
    """Return a scale or zero point, one or one per entry of an axis, in the rank of x."""
    if parameter.size == 1:
        return parameter.astype(np.float64).reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.astype(np.float64).reshape(shape)


class _Slide:
    """A window sliding over the spatial axes of x, as the attributes of a node describe it."""

    def __init__(self, x: Array, kernel: Sequence[int], attributes: dict[str, Any]) -> None:
        self.axes = len(kernel)
        self.strides = list(attributes.get("strides") or [1] * self.axes)
        self.dilations = list(attributes.get("dilations") or [1] * self.axes)
        self.extents = [d * (k - 1) + 1 for d, k in zip(self.dilations, kernel, strict=True)]
        self.sizes = list(x.shape[2:])
        self.ceil = bool(attributes.get("ceil_mode"))
        pads = list(attributes.get("pads") or [0] * 2 * self.axes)
        automatic = attributes.get("auto_pad") or "NOTSET"
        if automatic == "VALID":
            pads = [0] * 2 * self.axes
        elif automatic != "NOTSET":
            total = [
                max((-(-n // s) - 1) * s + extent - n, 0)
                for n, s, extent in zip(self.sizes, self.strides, self.extents, strict=True)
            ]
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = less + more if automatic == "SAME_UPPER" else more + less
        self.begins, self.ends = pads[: self.axes], pads[self.axes :]

    @property
    def torch_pads(self) -> list[int]:
        """Padding in torch's order: last axis first, begin and end in turn."""
        pairs = list(zip(self.begins, self.ends, strict=True))
        return [amount for pair in pairs[::-1] for amount in pair]

    def windows(self, x: Array, fill: float) -> torch.Tensor:
        """Return the cells under every window position [n, c, *positions, *kernel]."""
        return self.cut(functional.pad(_tensor(x), self.torch_pads, value=fill), fill)

    def cut(self, padded: torch.Tensor, fill: float) -> torch.Tensor:
        """Return the windows of a tensor that is padded already."""
        for axis in range(self.axes):
            stride, extent = self.strides[axis], self.extents[axis]
            room = padded.shape[axis + 2] - extent
            count = room // stride + 1
            if (
                self.ceil
                and room % stride
                and count * stride < self.sizes[axis] + self.begins[axis]
            ):
                count += 1  # a last window that overhangs, unless it would start in the padding
            overhang = max((count - 1) * stride + extent - padded.shape[axis + 2], 0)
            later_axes = [0, 0] * (padded.ndim - axis - 3)
            padded = functional.pad(padded, [*later_axes, 0, overhang], value=fill)
            padded = padded.unfold(axis + 2, extent, stride)[..., :: self.dilations[axis]]
        return padded


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(
        np.array(array, order="C")
    )  # a copy: torch wants it writable and contiguous
