"""Operators that read, write or sum entries by index."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from helpers.directional_check import Case
from helpers.rule_cases.drawing import Cases, numbers, shapes


@st.composite
def _gather(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    count = draw(st.lists(st.integers(1, 4), max_size=2))
    size = shape[axis]
    flat = [draw(st.integers(-size, size - 1)) for _ in range(int(np.prod(count)))]
    indices = np.array(flat, dtype=np.int64).reshape(count)
    return Case({"x": numbers(shape)}, {"indices": indices}, {"axis": axis})


@st.composite
def _gather_elements(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    axis = draw(st.integers(0, len(shape) - 1))  # onnx.reference fails on negative ones
    own = list(shape)
    own[axis] = draw(st.integers(1, 4))
    size = shape[axis]
    indices = np.random.default_rng(5).integers(-size, size, own)
    return Case({"x": numbers(shape)}, {"indices": indices}, {"axis": axis}, fixed_axes=range(9))


@st.composite
def _scatter_elements(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    axis = draw(st.integers(0, len(shape) - 1))  # onnx.reference fails on negative ones
    own = list(shape)
    own[axis] = draw(st.integers(1, shape[axis]))
    order = np.random.default_rng(5).permuted(
        np.broadcast_to(np.arange(shape[axis]), (*np.delete(shape, axis), shape[axis])), axis=-1
    )
    indices = np.moveaxis(order, -1, axis).take(range(own[axis]), axis=axis)  # none twice
    inputs = {"x": numbers(shape), "updates": numbers(tuple(own), seed=1)}
    return Case(
        inputs,
        {"indices": np.ascontiguousarray(indices)},
        {"axis": axis},
        ["x", "indices", "updates"],
        fixed_axes=range(9),
    )


@st.composite
def _scatter_nd(draw: st.DrawFn) -> Case:
    shape = draw(shapes)
    depth = draw(st.integers(1, len(shape)))
    places = list(itertools.product(*(range(size) for size in shape[:depth])))
    chosen = draw(st.lists(st.sampled_from(places), unique=True, min_size=1, max_size=4))
    inputs = {
        "x": numbers(shape),
        "updates": numbers((len(chosen), *shape[depth:]), seed=1),
    }
    return Case(
        inputs, {"indices": np.array(chosen)}, {}, ["x", "indices", "updates"], fixed_axes=range(9)
    )


@st.composite
def _einsum(draw: st.DrawFn) -> Case:
    size = {label: draw(st.integers(1, 4)) for label in "bdhijkl"}
    equation = draw(st.sampled_from(EQUATIONS))
    terms = equation.partition("->")[0].split(",")
    operands = {}
    for i, term in enumerate(terms):
        shape = [s for c in term.replace("...", ".") for s in ([2, 3] if c == "." else [size[c]])]
        operands[f"x{i}"] = numbers(tuple(shape), seed=i)
    return Case(operands, {}, {"equation": equation}, fixed_axes=range(9))


EQUATIONS = [
    "ij,jk->ik",
    "bij,bjk->bik",
    "bij,kj->bki",
    "ij->ji",
    "ij->i",
    "ij,ij->",
    "i,j->ij",
    "ij,jk",
    "...ij,...jk->...ik",
    "bi,ij,jk->bk",
    "bil,bjl->bij",
    "b...,b->...",
    "bl...,kl->bk...",
    "bhid, bhjd -> bhij",
    "...i,ij->...j",
    "i,j,k->ijk",
]

CASES: Cases = {
    "Einsum": _einsum(),
    "Gather": _gather(),
    "GatherElements": _gather_elements(),
    "ScatterElements": _scatter_elements(),
    "ScatterND": _scatter_nd(),
}
