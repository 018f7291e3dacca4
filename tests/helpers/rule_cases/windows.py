"""Convolutions and pools: windows over one to three spatial axes, padded in every way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from helpers.directional_check import Case
from helpers.rule_cases.drawing import Cases, numbers


def _geometry(
    draw: st.DrawFn, *, dilated: bool = True, below_kernel: bool = False
) -> tuple[tuple[int, ...], list[int], dict[str, Any]]:
    """Draw spatial sizes, a kernel and the attributes of a window that fits at least once."""
    # Hypothesis favours what stands first.
    axes = draw(st.sampled_from([2, 2, 2, 1, 3]))

    def per_axis(values: st.SearchStrategy[int]) -> list[int]:
        return [draw(values) for _ in range(axes)]

    kernel, strides = per_axis(st.sampled_from([3, 2, 4, 1])), per_axis(st.sampled_from([2, 3, 1]))
    if draw(st.booleans()):  # rules take other ways without a stride
        strides = [1] * axes
    dilations = per_axis(st.integers(1, 2)) if dilated and draw(st.booleans()) else [1] * axes
    pads = [0] * 2 * axes
    attributes: dict[str, Any] = {}
    padding = draw(st.sampled_from(["pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID", "none"]))
    if padding == "pads":
        most = [min(2, k - 1) if below_kernel else 2 for k in [*kernel, *kernel]]
        pads = attributes["pads"] = [draw(st.sampled_from(range(limit, -1, -1))) for limit in most]
    elif padding != "none":
        attributes["auto_pad"] = padding
    if padding.startswith("SAME") and below_kernel:  # pools: see what their rule refuses
        dilations = [1] * axes
        strides = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    if max(dilations) > 1:
        attributes["dilations"] = dilations
    attributes["strides"] = strides
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    # The smallest size that a window fits into, or a little more. Under dilation no window may see
    # nothing but padding.
    covered = (
        [0] * axes
        if max(dilations) > 1
        else [begin + end for begin, end in zip(pads[:axes], pads[axes:], strict=True)]
    )
    sizes = [
        max(1, e - c) + draw(st.sampled_from([3, 2, 4, 5, 1, 0] if axes < 3 else [2, 1, 0]))
        for e, c in zip(extents, covered, strict=True)
    ]
    return tuple(sizes), kernel, attributes


@st.composite
def _conv(draw: st.DrawFn) -> Case:
    sizes, kernel, attributes = _geometry(draw)
    group, per_group, outputs = (draw(st.sampled_from([2, 1])) for _ in range(3))
    attributes["group"] = group
    constants = {"w": numbers((group * outputs, per_group, *kernel), seed=1)}
    if draw(st.booleans()):
        constants["b"] = numbers((group * outputs,), seed=2)
    x = numbers((draw(st.sampled_from([1, 2])), group * per_group, *sizes))
    return Case({"x": x}, constants, attributes, engine=_runs_dilated(attributes))


def _runs_dilated(attributes: dict[str, Any]) -> bool:
    """ONNX Runtime refuses dilation with automatic padding."""
    return "dilations" not in attributes or not attributes.get("auto_pad", "").startswith("SAME")


@st.composite
def _conv_transpose(draw: st.DrawFn) -> Case:
    axes = draw(st.integers(1, 3))
    sizes = [draw(st.integers(1, 4)) for _ in range(axes)]
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    strides = [draw(st.integers(1, 3)) for _ in range(axes)]
    dilations = [draw(st.integers(1, 2)) for _ in range(axes)]
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations}
    natural = [s * (n - 1) + e for s, n, e in zip(strides, sizes, extents, strict=True)]
    way = draw(
        st.sampled_from(["pads", "output_padding", "output_shape", "SAME_UPPER", "SAME_LOWER"])
    )
    fixed: Sequence[int] = (1,)
    if way == "pads":
        pads = [draw(st.integers(0, 1)) for _ in range(2 * axes)]
        assume(all(n > b + e for n, b, e in zip(natural, pads[:axes], pads[axes:], strict=True)))
        attributes["pads"] = pads
    elif way == "output_padding":
        attributes["output_padding"] = [draw(st.integers(0, s - 1)) for s in strides]
    elif way == "output_shape":
        attributes["output_shape"] = [draw(st.integers(max(1, n - 2), n)) for n in natural]
        if draw(st.booleans()):
            attributes["auto_pad"] = draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER"]))
        fixed = range(9)
    else:
        assume(all(e >= s for e, s in zip(extents, strides, strict=True)))
        attributes["auto_pad"] = way
    group, per_group, outputs = (draw(st.sampled_from([2, 1])) for _ in range(3))
    attributes["group"] = group
    x = numbers((draw(st.sampled_from([1, 2])), group * per_group, *sizes))
    weight = numbers((group * per_group, outputs, *kernel), seed=1)
    return Case({"x": x}, {"w": weight}, attributes, fixed_axes=fixed)


@st.composite
def _pool(
    draw: st.DrawFn, *, dilated: bool = False, counts: bool = False, powers: bool = False
) -> Case:
    sizes, kernel, attributes = _geometry(draw, dilated=dilated, below_kernel=True)
    attributes["kernel_shape"] = kernel
    extents = [
        d * (k - 1) + 1
        for d, k in zip(attributes.get("dilations", [1] * len(sizes)), kernel, strict=True)
    ]
    if "auto_pad" not in attributes and draw(st.sampled_from([True, True, False])):
        # Windows that would start behind the image are refused.
        attributes["ceil_mode"] = int(not _overhangs(sizes, extents, attributes))
    if counts:
        attributes["count_include_pad"] = draw(st.sampled_from([1, 0]))
    if powers:
        attributes["p"] = draw(st.integers(1, 4))
    shape = (draw(st.sampled_from([1, 2])), draw(st.integers(1, 2)), *sizes)
    return Case({"x": numbers(shape)}, attributes=attributes)


def _overhangs(sizes: Sequence[int], extents: Sequence[int], attributes: dict[str, Any]) -> bool:
    """Whether rounding up gives a window that starts behind the image."""
    axes = len(sizes)
    pads = attributes.get("pads", [0] * 2 * axes)
    return any(
        -(-(n + pads[i] + pads[i + axes] - extent) // stride) * stride >= n + pads[i]
        for i, (n, extent, stride) in enumerate(
            zip(sizes, extents, attributes["strides"], strict=True)
        )
    )


@st.composite
def _tiles(draw: st.DrawFn) -> Case:
    """Square windows side by side, as VGG has them."""
    block = draw(st.integers(2, 3))
    sizes = [draw(st.integers(block, 8)) for _ in range(2)]
    attributes = {"kernel_shape": [block, block], "strides": [block, block]}
    return Case({"x": numbers((2, 2, *sizes))}, attributes=attributes)


CASES: Cases = {
    "AveragePool": _pool(counts=True),
    "Conv": _conv(),
    "ConvTranspose": _conv_transpose(),
    "LpPool": _pool(dilated=True, powers=True),
    "MaxPool": _pool(dilated=True) | _tiles(),
}
