from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.errors import OptionError
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.normalize import State, normalize
from klieg.kernels.cuda.normalize_plain import normalize_plain
from klieg.kernels.device.array import DeviceArray

EXAMPLES = min(25, int(os.environ.get("KLIEG_SHIM_EXAMPLES", "25")))

RAW = {
    "signed": lambda noise: noise - 0.5,
    "positive": lambda noise: noise + 3,
    "negative": lambda noise: -noise - 1,
    "constant": lambda noise: noise * 0 + 2,
    "zeros": lambda noise: noise * 0,
    "flat": lambda noise: 1 + 5e-7 * noise,
    "almost flat": lambda noise: 1 + 5e-6 * noise,
    "tiny": lambda noise: 1e-30 * noise,
    "NaN": lambda noise: np.where(noise == noise.flat[noise.size // 2], np.nan, noise),
    "infinite": lambda noise: np.where(noise == noise.flat[-1], np.inf, noise),
    "minus infinite": lambda noise: np.where(noise == noise.flat[0], -np.inf, noise),
    "mask": lambda noise: noise,
    "rounded mask": lambda noise: noise * 1.0015 - 0.0008,
    "no mask": lambda noise: noise + 0.5,
    "no mask below": lambda noise: noise - 0.5,
}


def made(kernels: Kernels, raw: np.ndarray, *, masks: bool) -> tuple[np.ndarray, np.ndarray]:
    maps, states = normalize(kernels, DeviceArray.of(kernels.device, raw), masks=masks)
    return maps.to_host(kernels.device), states.to_host(kernels.device)


def check(kernels: Kernels, raw: np.ndarray, *, masks: bool) -> None:
    """Comparisons, one subtraction and one division: equal to the last bit."""
    for got, truth in zip(
        made(kernels, raw, masks=masks), normalize_plain(raw, masks=masks), strict=True
    ):
        assert got.dtype == truth.dtype
        np.testing.assert_array_equal(got, truth)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    kinds=st.lists(st.sampled_from(sorted(RAW)), min_size=1, max_size=7),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    masks=st.booleans(),
)
def test_equals_the_runtime(
    kernels: Kernels, kinds: list[str], shape: tuple[int, int], masks: bool
) -> None:
    generator = np.random.default_rng(0)
    raw = np.stack([RAW[kind](generator.random(shape)) for kind in kinds]).astype(np.float32)
    check(kernels, raw, masks=masks)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("side", [64, 63])
def test_every_kind(kernels: Kernels, side: int, masks: bool) -> None:
    noise = np.random.default_rng(0).random((side, side))
    check(kernels, np.stack([RAW[kind](noise) for kind in RAW]).astype(np.float32), masks=masks)


@pytest.mark.parametrize(
    ("kind", "masks", "state"),
    [
        ("signed", False, State.FINE),
        ("negative", False, State.FLAT),
        ("flat", False, State.FLAT),
        ("almost flat", False, State.FINE),
        ("NaN", False, State.NOT_A_NUMBER),
        ("NaN", True, State.NOT_A_NUMBER),
        ("rounded mask", True, State.FINE),
        ("no mask", True, State.OUT_OF_RANGE),
        ("no mask below", True, State.OUT_OF_RANGE),
        ("infinite", True, State.OUT_OF_RANGE),
        ("constant", True, State.OUT_OF_RANGE),
        ("zeros", True, State.FLAT),
    ],
)
def test_states(kernels: Kernels, kind: str, masks: bool, state: State) -> None:
    noise = np.random.default_rng(0).random((1, 9, 9))
    maps, states = made(kernels, RAW[kind](noise).astype(np.float32), masks=masks)
    assert states.tolist() == [state]
    assert np.isnan(maps).all() == (state in (State.NOT_A_NUMBER, State.OUT_OF_RANGE))


@pytest.mark.parametrize("place", [0, 1023, 1024, 50175])
def test_one_nan_anywhere_is_seen(kernels: Kernels, place: int) -> None:
    raw = np.random.default_rng(0).random((2, 224, 224)).astype(np.float32)
    raw[1].flat[place] = np.nan
    maps, states = made(kernels, raw, masks=False)
    assert states.tolist() == [State.FINE, State.NOT_A_NUMBER]
    assert np.isfinite(maps[0]).all()
    assert np.isnan(maps[1]).all()


def test_more_pixels_than_parts_of_them(kernels: Kernels) -> None:
    raw = np.random.default_rng(0).standard_normal((1, 517, 513)).astype(np.float32)
    check(kernels, raw, masks=False)


def test_memory_need_not_be_aligned(kernels: Kernels) -> None:
    raw = np.random.default_rng(0).standard_normal(17).astype(np.float32)
    whole = DeviceArray.of(kernels.device, raw)
    part = DeviceArray(whole.pointer + 4, (1, 4, 4), np.dtype(np.float32), whole)
    maps, _ = normalize(kernels, part, masks=False)
    truth, _ = normalize_plain(raw[1:].reshape(1, 4, 4), masks=False)
    np.testing.assert_array_equal(maps.to_host(kernels.device), truth)


@pytest.mark.parametrize("raw", [np.zeros((1, 2, 2)), np.zeros((2, 2), np.float32)])
def test_other_arrays_are_refused(kernels: Kernels, raw: np.ndarray) -> None:
    with pytest.raises(OptionError, match=r"expected float32 \[N, H, W\]"):
        made(kernels, raw, masks=False)
