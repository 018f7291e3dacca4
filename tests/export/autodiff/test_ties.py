"""Where a derivative has several values: the choice of torch autograd, and never NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from helpers.directional_check import Case, gradient_model
from klieg.export.parity.float64 import evaluator, in_float64

Torch = Callable[[torch.Tensor], torch.Tensor]


def check_against_torch(op_type: str, case: Case, function: Torch) -> None:
    """Compare the gradient of sum(seed * y) with autograd, in float64 and in ONNX Runtime."""
    (x,) = case.inputs.values()
    leaf = torch.from_numpy(x).requires_grad_()
    y = function(leaf)
    seed = np.random.default_rng(1).integers(1, 9, y.shape).astype(np.float64)
    (want,) = torch.autograd.grad((y * torch.from_numpy(seed)).sum(), leaf)
    for dynamic in (False, True):
        model = gradient_model(op_type, case, seed, dynamic=dynamic)
        (got,) = evaluator(in_float64(model)).run(None, dict(case.inputs))
        np.testing.assert_allclose(got, want.numpy(), atol=1e-12)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        used = {entry.name for entry in session.get_inputs()}
        feeds = {k: v.astype(np.float32) for k, v in case.inputs.items() if k in used}
        np.testing.assert_allclose(session.run(None, feeds)[0], want.numpy(), atol=1e-5)


def many_ties(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, shape).astype(np.float64)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},  # tiles, read as blocks
        {"kernel_size": 3, "stride": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 2, "stride": 1, "dilation": 2},
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_max_pool_takes_the_first(options: dict[str, Any], size: tuple[int, int]) -> None:
    attributes: dict[str, Any] = {
        "kernel_shape": [options["kernel_size"]] * 2,
        "strides": [options["stride"]] * 2,
        "pads": [options.get("padding", 0)] * 4,
        "dilations": [options.get("dilation", 1)] * 2,
        "ceil_mode": int(options.get("ceil_mode", False)),
    }
    check_against_torch(
        "MaxPool",
        Case({"x": many_ties(2, 2, *size)}, attributes=attributes),
        lambda x: torch.nn.functional.max_pool2d(x, **options),
    )


def test_global_max_pool_takes_the_first() -> None:
    check_against_torch(
        "GlobalMaxPool",
        Case({"x": many_ties(3, 2, 5, 4)}),
        lambda x: torch.nn.functional.adaptive_max_pool2d(x, 1),
    )


@pytest.mark.parametrize(("op_type", "function"), [("ReduceMax", "amax"), ("ReduceMin", "amin")])
def test_extremes_over_axes_share(op_type: str, function: str) -> None:
    check_against_torch(
        op_type,
        Case({"x": many_ties(3, 4, 5)}, {"axes": np.array([1, 2])}, {"keepdims": 0}),
        lambda x: getattr(torch, function)(x, dim=(1, 2)),
    )


@pytest.mark.parametrize(("op_type", "function"), [("Max", torch.maximum), ("Min", torch.minimum)])
def test_extremes_of_operands_share(op_type: str, function: Any) -> None:
    other = many_ties(2, 5)[:, ::-1].copy()
    check_against_torch(
        op_type,
        Case({"x": many_ties(2, 5)}, {"other": other}),
        lambda x: function(x, torch.from_numpy(other)),
    )


@pytest.mark.parametrize(
    ("op_type", "function"),
    [
        ("Relu", torch.relu),
        ("Abs", torch.abs),
        ("ReduceL1", lambda x: torch.linalg.vector_norm(x, 1, keepdim=True, dim=(0, 1))),
        ("ReduceL2", lambda x: torch.linalg.vector_norm(x, 2, keepdim=True, dim=(0, 1))),
        ("ReduceProd", lambda x: x.prod().reshape(1, 1)),
    ],
)
def test_at_zero(op_type: str, function: Torch) -> None:
    for x in (np.zeros((2, 3)), np.array([[0.0, 1.0, -2.0]]), np.array([[0.0, 1.0, 0.0]])):
        check_against_torch(op_type, Case({"x": x}), function)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("op_type", ["LpPool", "GlobalLpPool"])
def test_norms_of_zeros_have_gradient_zero(op_type: str, p: int) -> None:
    attributes: dict[str, Any] = {"p": p}
    if op_type == "LpPool":
        attributes |= {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}
    check_against_torch(
        op_type,
        Case({"x": np.zeros((1, 2, 3, 3))}, attributes=attributes),
        lambda x: (
            0
            * (
                torch.nn.functional.avg_pool2d(x, 2, 1, 1)
                if op_type == "LpPool"
                else x.mean(dim=(2, 3), keepdim=True)
            )
        ),
    )
