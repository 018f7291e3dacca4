from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.kernels.contraction import contract
from klieg.kernels.contraction_plain import contract_plain

cases = st.fixed_dictionaries(
    {
        "channels": st.integers(1, 9),
        "grids": st.lists(
            st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4
        ),
        "size": st.tuples(st.integers(1, 50), st.integers(1, 50)),
        "tile": st.sampled_from([None, 1, 5, 28, 64]),
        "constant": st.sampled_from(["none", "all", "some"]),
    }
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(cases)
def test_equals_the_published_form(case: dict) -> None:
    generator = np.random.default_rng(0)

    def tensors(constant: str) -> list[np.ndarray]:
        return [
            generator.standard_normal(
                (case["channels"], 1, 1)
                if constant == "all" or (constant == "some" and number % 2)
                else (case["channels"], *grid)
            ).astype(np.float32)
            for number, grid in enumerate(case["grids"])
        ]

    activations, gradients = tensors("none"), tensors(case["constant"])
    truth = contract_plain(activations, gradients, case["size"])
    got = contract(activations, gradients, case["size"], tile=case["tile"])
    assert got.shape == truth.shape
    assert got.dtype == np.float32
    # Sums over channels in another order: float32 rounding, relative to the largest terms.
    np.testing.assert_allclose(got, truth, atol=1e-5 * max(1, np.abs(truth).max()))


def test_full_size_case() -> None:
    generator = np.random.default_rng(0)
    grids = [7, 10, 13, 17, 20, 23, 26, 29]
    activations, gradients = (
        [generator.standard_normal((64, n, n)).astype(np.float32) for n in grids] for _ in range(2)
    )
    truth = contract_plain(activations, gradients, (224, 224))
    got = contract(activations, gradients, (224, 224))
    np.testing.assert_allclose(got, truth, atol=2e-6 * np.abs(truth).max())


def test_arguments_are_not_changed() -> None:
    activations = [np.ones((2, 3, 3), dtype=np.float32)]
    gradients = [np.full((2, 3, 3), 2, dtype=np.float32)]
    for array in (*activations, *gradients):
        array.flags.writeable = False
    np.testing.assert_allclose(contract(activations, gradients, (5, 4)), 4)


def test_scales_must_match() -> None:
    with pytest.raises(ValueError, match=r"zip|shorter|longer|broadcast"):
        contract([np.ones((1, 2, 2), np.float32)] * 2, [np.ones((1, 2, 2), np.float32)], (4, 4))
