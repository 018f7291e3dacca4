from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.errors import OptionError
from klieg.kernels.cuda.gate import Gates, gate
from klieg.kernels.cuda.gate_plain import gate_plain
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.device.array import DeviceArray

EXAMPLES = min(30, int(os.environ.get("KLIEG_SHIM_EXAMPLES", "30")))
STEPS = 3


def check(kernels: Kernels, logits: np.ndarray, asked: np.ndarray) -> None:
    """Compare all steps: logits [steps, B, classes], asked [B * n]."""
    steps, images, _ = logits.shape
    device = kernels.device
    gates = Gates.empty(device, images, len(asked) // images, steps)
    targets = None
    for step in range(steps):
        rows = DeviceArray.of(device, logits[step])
        gate(kernels, rows, DeviceArray.of(device, asked), gates, step=step)
        targets, used, finite = gate_plain(logits[step], asked, targets)
        np.testing.assert_array_equal(gates.targets.to_host(device), targets)
        np.testing.assert_array_equal(gates.used.to_host(device)[:, step], used)
        np.testing.assert_array_equal(gates.finite.to_host(device)[:, step], finite)
        untouched = gates.used.to_host(device)[:, step + 1 :]
        assert (untouched == -1).all()  # fresh memory holds 0xFF bytes


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(
    images=st.sampled_from([1, 7]),
    questions=st.integers(1, 4),
    classes=st.integers(1, 700),
    levels=st.integers(1, 1000),
    spoilt=st.sampled_from([None, np.nan, np.inf, -np.inf]),
    seed=st.integers(0, 2**31),
)
def test_equals_plain_form(
    kernels: Kernels,
    images: int,
    questions: int,
    classes: int,
    levels: int,
    spoilt: float | None,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    # Few levels make ties; images that predict the same at all scales make gates that open.
    steady = generator.integers(0, levels, (1, images, classes))
    logits = steady + generator.integers(0, 2, (STEPS, images, 1)) * generator.integers(
        0, levels, (STEPS, images, classes)
    )
    logits = logits.astype(np.float32)
    if spoilt is not None:
        logits[generator.random(logits.shape) < 1 / classes] = spoilt
    asked = generator.integers(-1, min(classes, 3), images * questions)
    check(kernels, logits, asked)


def test_the_first_of_equals_wins(kernels: Kernels) -> None:
    logits = np.zeros((1, 3, 1000), dtype=np.float32)
    logits[0, 0, [300, 44, 999]] = 1
    logits[0, 1] = -np.inf
    logits[0, 2, [5, 261]] = np.nan
    check(kernels, logits, np.full(3, -1))


def test_a_scale_counts_if_it_agrees_or_a_class_was_asked_for(kernels: Kernels) -> None:
    logits = np.eye(4, dtype=np.float32)[[[2, 0], [2, 1], [3, 0]]]  # predicted [steps, images]
    device = kernels.device
    gates = Gates.empty(device, 2, 2, 3)
    asked = DeviceArray.of(device, np.array([-1, 1, 3, -1]))
    for step in range(3):
        gate(kernels, DeviceArray.of(device, logits[step]), asked, gates, step=step)
    assert gates.targets.to_host(device).tolist() == [2, 1, 3, 0]
    assert gates.used.to_host(device).tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 1]]
    assert gates.finite.to_host(device).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_more_questions_than_threads(kernels: Kernels) -> None:
    logits = np.random.default_rng(0).standard_normal((2, 2, 5)).astype(np.float32)
    check(kernels, logits, np.random.default_rng(0).integers(-1, 5, 2 * 300))


@pytest.mark.parametrize(
    ("logits", "asked", "step"),
    [
        (np.zeros((2, 3)), np.zeros(4, np.int64), 0),
        (np.zeros((3, 3), np.float32), np.zeros(4, np.int64), 0),
        (np.zeros((2, 0), np.float32), np.zeros(4, np.int64), 0),
        (np.zeros((2, 3), np.float32), np.zeros(4, np.int32), 0),
        (np.zeros((2, 3), np.float32), np.zeros(3, np.int64), 0),
        (np.zeros((2, 3), np.float32), np.zeros(4, np.int64), 3),
    ],
)
def test_impossible_calls_are_refused(
    kernels: Kernels, logits: np.ndarray, asked: np.ndarray, step: int
) -> None:
    device = kernels.device
    gates = Gates.empty(device, 2, 2, STEPS)
    with pytest.raises(OptionError, match="expected"):
        gate(
            kernels, DeviceArray.of(device, logits), DeviceArray.of(device, asked), gates, step=step
        )
