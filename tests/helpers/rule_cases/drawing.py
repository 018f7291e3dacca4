"""What the tables of cases have in common: shapes and numbers to draw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from helpers.directional_check import Case

Draw = Callable[[st.SearchStrategy], object]
Cases = dict[str, st.SearchStrategy[Case]]

shapes = st.one_of(
    st.sampled_from([(1, 1, 1, 1), (7, 3, 1, 1), (1, 2, 5, 3), (7, 2, 4, 3), (2, 3), (1, 1), (3,)]),
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
)
images = st.tuples(
    st.sampled_from([1, 2, 7]), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)
)


def numbers(shape: tuple[int, ...], *, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    """Return numbers of both signs; none is near 0 and no two are near, so no step meets a kink."""
    count = int(np.prod(shape))
    spread = np.linspace(-scale, scale, 2 * count + 2)[1::2]
    spread += scale / (5 * (count + 1))  # so that 0 is not in the middle
    shuffled = np.random.default_rng(seed).permutation(spread[:count])
    # Exact in float32, so that both precisions see the same numbers.
    return shuffled.reshape(shape).astype(np.float32).astype(np.float64)


def positive(shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    """Return numbers from 0.4 to 2.4, no two of them near."""
    count = int(np.prod(shape))
    spread = np.linspace(0.4, 2.4, count)
    shuffled = np.random.default_rng(seed).permutation(spread)
    return shuffled.reshape(shape).astype(np.float32).astype(np.float64)
