"""The contraction on the device against the published form."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cpu_build import sanitizer
from klieg.errors import OptionError
from klieg.kernels.contraction_plain import contract_plain
from klieg.kernels.cuda.contract import CELLS, COLUMNS, Contraction, largest_tile
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.device.array import DeviceArray

EXAMPLES = int(os.environ.get("KLIEG_SHIM_EXAMPLES", "25"))
RESNET50 = [(n, n) for n in (7, 11, 14, 17, 20, 23, 26, 29)]

cases = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([1, 3, 31, 32, 33, 70]),
        "grids": st.lists(
            st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4
        ),
        "size": st.tuples(st.integers(1, 40), st.integers(1, 40)),
        "images": st.sampled_from([1, 2, 7]),
        "questions": st.integers(1, 2),
        "constant": st.sampled_from(["none", "all", "some"]),
        "kind": st.sampled_from(["exact", "rounded", "float16"]),
    }
)


def fused(kernels: Kernels, case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return maps from the kernels and their truth, [N, H, W], and the size of a term."""
    generator = np.random.default_rng(0)
    rows = case["images"] * case["questions"]
    scales = len(case["grids"])
    dtype = np.float16 if case["kind"] == "float16" else np.float32
    activations, gradients = [], []
    for number, grid in enumerate(case["grids"]):
        constant = case["constant"] == "all" or (case["constant"] == "some" and number % 2)
        shape = (case["images"], case["channels"], *grid)
        activations.append(generator.standard_normal(shape).astype(dtype))
        shape = (rows, case["channels"], *((1, 1) if constant else grid))
        gradients.append(generator.standard_normal(shape).astype(dtype))
    used = generator.integers(0, 2, (rows, scales)).astype(np.int32)
    used[:, 0] = 1
    device = kernels.device
    contraction = Contraction(
        kernels, size=case["size"], questions=case["questions"], exact=case["kind"] == "exact"
    )
    for number, (a, g) in enumerate(zip(activations, gradients, strict=True)):
        if not used[:, number].any():  # what does not count may be anything
            a, g = np.full_like(a, np.nan), np.full_like(g, np.nan)
        contraction.add(DeviceArray.of(device, a), DeviceArray.of(device, g))
    got = contraction.fuse(DeviceArray.of(device, used)).to_host(device)
    truth = np.stack(
        [
            contract_plain(
                [
                    a[row // case["questions"]].astype(np.float64)
                    for a, u in zip(activations, used[row], strict=True)
                    if u
                ],
                [g[row].astype(np.float64) for g, u in zip(gradients, used[row], strict=True) if u],
                case["size"],
            )
            for row in range(rows)
        ]
    )
    return got, truth, np.sqrt(case["channels"])


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(cases)
def test_equals_the_published_form(kernels: Kernels, case: dict[str, Any]) -> None:
    got, truth, term = fused(kernels, case)
    assert got.dtype == np.float32
    assert got.shape == truth.shape
    # Sums of `channels` products of about 1 in float32, in another order; float32 factors are
    # rounded to 11 bits, each product by up to 2^-10, and float16 factors not at all.
    tolerance = 5e-3 if case["kind"] == "rounded" and case["constant"] != "all" else 3e-6
    np.testing.assert_allclose(got, truth, atol=tolerance * max(2 * term, np.abs(truth).max()))


@pytest.mark.parametrize("kind", ["exact", "rounded", "float16"])
def test_shares_of_many_channels(kernels: Kernels, kind: str) -> None:
    case = {
        "channels": 3000,
        "grids": [(2, 3), (5, 4)],
        "size": (24, 17),
        "images": 1,
        "questions": 1,
        "constant": "none",
        "kind": kind,
    }
    got, truth, term = fused(kernels, case)
    *_, main, _ = kernels.device.launches
    shares = main.grid[1]
    assert shares > 1
    tolerance = 5e-3 if kind == "rounded" else 1e-5
    np.testing.assert_allclose(got, truth, atol=tolerance * 2 * term)


@pytest.mark.skipif(sanitizer() == "thread", reason="takes half a minute; smaller ones show races")
@pytest.mark.parametrize("constant", ["none", "all"])
def test_eight_scales_at_full_size(kernels: Kernels, constant: str) -> None:
    case = {
        "channels": 16,
        "grids": RESNET50,
        "size": (224, 224),
        "images": 1,
        "questions": 1,
        "constant": constant,
        "kind": "rounded",
    }
    got, truth, _ = fused(kernels, case)
    assert np.corrcoef(got.ravel(), truth.ravel())[0, 1] > 0.999999


def test_no_full_size_tensor(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    device, allocate, sizes = kernels.device, kernels.device.allocate, []
    contraction = Contraction(kernels, size=(96, 96))
    tensors = [np.ones((2, 64, n, n), dtype=np.float32) for n in (3, 5)]
    for tensor in tensors:
        contraction.add(DeviceArray.of(device, tensor), DeviceArray.of(device, tensor))
    used = DeviceArray.of(device, np.ones((2, 2), dtype=np.int32))
    monkeypatch.setattr(device, "allocate", lambda size: sizes.append(size) or allocate(size))
    contraction.fuse(used)
    assert sum(sizes) < 2 * 64 * 96 * 96 * 4 / 8


def test_tiles_are_as_large_as_they_may_be() -> None:
    assert largest_tile(RESNET50, (224, 224)) == 21
    assert largest_tile([(1, 1)], (224, 224)) == 32
    assert largest_tile([(400, 400)] * 16, (50, 50)) == 1
    assert (CELLS, COLUMNS) == (128, 64)


@pytest.mark.parametrize("kind", ["exact", "rounded"])
def test_cells_of_any_magnitude(kernels: Kernels, kind: str) -> None:
    generator, device, shape = np.random.default_rng(0), kernels.device, (1, 40, 5, 7)
    pair = [
        (
            generator.standard_normal(shape) * 10.0 ** generator.uniform(-17, 17, (1, 1, 5, 7))
        ).astype(np.float32)
        for _ in range(2)
    ]
    contraction = Contraction(kernels, size=(5, 7), exact=kind == "exact")  # a pixel, a cell
    contraction.add(*(DeviceArray.of(device, tensor) for tensor in pair))
    got = contraction.fuse(DeviceArray.of(device, np.ones((1, 1), np.int32))).to_host(device)
    products = pair[0].astype(np.float64) * pair[1]
    # Every cell's own sum within what 11 bits, or float32, make of its products.
    tolerance = (2**-10 if kind == "rounded" else 1e-6) * np.abs(products).sum(axis=1)
    assert (np.abs(got - products.sum(axis=1)) <= tolerance).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["exact", "rounded"])
def test_what_is_not_finite_shows(kernels: Kernels, kind: str, value: float) -> None:
    device = kernels.device
    activation, gradient = np.ones((2, 1, 40, 5, 7), np.float32)
    activation[0, 33, 2, 3] = value
    contraction = Contraction(kernels, size=(5, 7), exact=kind == "exact")
    contraction.add(DeviceArray.of(device, activation), DeviceArray.of(device, gradient))
    got = contraction.fuse(DeviceArray.of(device, np.ones((1, 1), np.int32))).to_host(device)
    assert not np.isfinite(got[0, 2, 3])
    assert got[0, 0, 0] == 40  # far from it


def test_more_columns_than_a_tile_holds(kernels: Kernels) -> None:
    case = {  # and more than are summed in one turn
        "channels": 3,
        "grids": [(1, 100)] * 4,
        "size": (16, 100),
        "images": 1,
        "questions": 1,
        "constant": "none",
        "kind": "exact",
    }
    assert largest_tile(case["grids"], case["size"]) == 15
    got, truth, term = fused(kernels, case)
    np.testing.assert_allclose(got, truth, atol=3e-6 * max(2 * term, np.abs(truth).max()))


@pytest.mark.parametrize(
    ("activation", "gradient", "message"),
    [
        (np.ones((1, 2, 3), np.float32), np.ones((1, 2, 3, 3), np.float32), "expected \\[B, K"),
        (np.ones((1, 2, 3, 3), np.float32), np.ones((2, 2, 3, 3), np.float32), "expected \\[B, K"),
        (np.ones((1, 2, 3, 3), np.float32), np.ones((1, 2, 3, 1), np.float32), "expected \\[B, K"),
        (np.ones((1, 2, 3, 3), np.float16), np.ones((1, 2, 3, 3), np.float32), "both"),
        (np.ones((1, 2, 3, 3), np.float64), np.ones((1, 2, 3, 3), np.float64), "both"),
    ],
)
def test_what_does_not_go_together(
    kernels: Kernels, activation: np.ndarray, gradient: np.ndarray, message: str
) -> None:
    device = kernels.device
    contraction = Contraction(kernels, size=(4, 4))
    with pytest.raises(OptionError, match=message):
        contraction.add(DeviceArray.of(device, activation), DeviceArray.of(device, gradient))


def test_more_maps_than_a_launch_takes(kernels: Kernels) -> None:
    contraction = Contraction(kernels, size=(4, 4))
    array = DeviceArray(0, (32_768, 1, 1, 1), np.dtype(np.float32), None)
    with pytest.raises(OptionError, match="at most 65,535 images and maps"):
        contraction.add(array, array)


def test_scales_must_agree(kernels: Kernels) -> None:
    device = kernels.device
    contraction = Contraction(kernels, size=(4, 4))
    three = DeviceArray.of(device, np.ones((1, 3, 2, 2), np.float32))
    two = DeviceArray.of(device, np.ones((1, 2, 2, 2), np.float32))
    contraction.add(three, three)
    with pytest.raises(OptionError, match="after"):
        contraction.add(two, two)
    with pytest.raises(OptionError, match=r"expected int32 \[maps, 1\]"):
        contraction.fuse(DeviceArray.of(device, np.ones((1, 2), np.int32)))
    for _ in range(15):
        contraction.add(three, three)
    with pytest.raises(OptionError, match="more than 16"):
        contraction.add(three, three)
