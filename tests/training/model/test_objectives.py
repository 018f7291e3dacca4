from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from klieg.training.model import objectives
from klieg.training.model.objectives import Judgement, terms, total_variation
from klieg.training.settings.options import ObjectiveOptions

CLASSES = 4
WEIGHTS = {
    "out_entropy": 0.5,
    "out_classification": 0.3,
    "in_classification": 0.7,
    "size_out": 5,
    "size_in": 2,
    "variation": 0.01,
    "area_weight": 3,
}


def softmax(row: list[float]) -> list[float]:
    shifted = [math.exp(value - max(row)) for value in row]
    return [value / sum(shifted) for value in shifted]


def slow_variation(mask: np.ndarray, variant: str) -> float:
    total = border = 0.0
    for image in mask[:, 0]:
        rows, columns = image.shape
        for y in range(rows):
            for x in range(columns):
                if y:
                    total += (image[y, x] - image[y - 1, x]) ** 2
                if x:
                    total += (image[y, x] - image[y, x - 1]) ** 2
                if min(y, x, rows - 1 - y, columns - 1 - x) < 4:
                    border += image[y, x] ** 2
    if variant == "paper":
        return total / len(mask)
    return (total + 0.3 * border) / (2 * len(mask))


def slow_terms(
    weights: dict[str, Any], mask: np.ndarray, labels: Any, correct: Any, out: Any, inside: Any
) -> dict[str, float]:
    """Compute every term image by image, from its equation."""
    found: dict[str, float] = dict.fromkeys(WEIGHTS, 0.0)
    batch = len(labels)
    for i, label in enumerate(labels):
        mean = float(mask[i].mean())
        p_out, p_in = softmax(out[i]), softmax(inside[i])
        wrong_out = max(range(CLASSES), key=lambda j: out[i][j]) != label
        right_in = max(range(CLASSES), key=lambda j: inside[i][j]) == label
        if correct[i]:
            found["out_entropy"] += sum(p * math.log(p) for p in p_out) / batch
            if wrong_out:
                found["size_out"] -= max(1 - mean, 0) / batch
        if right_in:
            found["size_in"] -= max(1 - mean, 0) / batch
        found["out_classification"] += math.log(p_out[label]) / batch
        found["in_classification"] -= math.log(p_in[label]) / batch
        found["area_weight"] += (mean - weights.get("area", 0)) ** 2 / batch
    variant = weights.get("variation_variant", "released")
    times = 2 if variant == "released" else 1  # both directions are looked at here
    found["variation"] = times * slow_variation(mask, variant)
    return {
        name.removesuffix("_weight"): weights[name] * value
        for name, value in found.items()
        if weights.get(name)
    }


def drawn(seed: int, batch: int = 6) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "mask": generator.random((batch, 1, 12, 9)).astype(np.float32),
        "labels": generator.integers(0, CLASSES, batch).tolist(),
        "correct": generator.integers(0, 2, batch).tolist(),
        "out": (3 * generator.standard_normal((batch, CLASSES))).tolist(),
        "inside": (3 * generator.standard_normal((batch, CLASSES))).tolist(),
    }


def towards(labels: list[int], shift: int) -> list[list[float]]:
    """Return logits that are sure of the class `shift` beside the label."""
    return [[4.0 if j == (y + shift) % CLASSES else 0.0 for j in range(CLASSES)] for y in labels]


def made_by_hand(name: str) -> dict[str, Any]:
    case = drawn(7)
    labels = case["labels"]
    right, wrong = towards(labels, 0), towards(labels, 1)
    changes = {
        "nobody correct": {"correct": [0] * 6, "out": wrong, "inside": wrong},
        "all correct": {"correct": [1] * 6, "out": right, "inside": right},
        "all confused": {"correct": [1] * 6, "out": wrong, "inside": right},
        "full masks": {"mask": np.ones((6, 1, 12, 9), np.float32), "out": wrong},
        "empty masks": {"mask": np.zeros((6, 1, 12, 9), np.float32), "out": wrong},
    }[name]
    return {**case, **changes}


HAND_MADE = ["nobody correct", "all correct", "all confused", "full masks", "empty masks"]


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("case", [0, 1, 2, *HAND_MADE])
def test_terms_equal_loops(case: int | str, variant: str) -> None:
    values = drawn(case) if isinstance(case, int) else made_by_hand(case)
    weights = {**WEIGHTS, "area": 0.25, "variation_variant": variant}
    judged = Judgement(
        torch.tensor(values["labels"]),
        torch.tensor(values["correct"]).float(),
        torch.tensor(values["out"]),
        torch.tensor(values["inside"]),
    )
    got = terms(ObjectiveOptions(**weights), torch.from_numpy(values["mask"]), judged)
    expected = slow_terms(weights, **values)
    assert set(got) == set(expected)
    for name, term in got.items():
        assert float(term) == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_hand_made_cases_say_what_they_should() -> None:
    def of(name: str) -> dict[str, float]:
        return slow_terms({**WEIGHTS, "area": 0}, **made_by_hand(name))

    assert of("nobody correct")["out_entropy"] == 0
    assert of("nobody correct")["size_out"] == of("nobody correct")["size_in"] == 0
    assert of("all correct")["size_out"] == 0
    assert of("all correct")["size_in"] < 0
    assert of("all confused")["size_out"] < 0
    assert of("full masks")["size_out"] == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 20), (8, 8), (9, 9), (30, 17)])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_variation_equals_loops(shape: tuple[int, int], variant: Any) -> None:
    mask = np.random.default_rng(0).random((3, 1, *shape)).astype(np.float32)
    got = float(total_variation(torch.from_numpy(mask), variant))
    assert got == pytest.approx(slow_variation(mask, variant), rel=1e-4)


def test_released_adds_variation_once_per_direction() -> None:
    mask, logits = torch.rand(2, 1, 8, 8), torch.randn(2, CLASSES)
    labels, correct = torch.tensor([0, 1]), torch.ones(2)

    def variation(variant: Any, out: bool, inside: bool) -> float:
        options = ObjectiveOptions(
            out_entropy=float(out),
            in_classification=float(inside),
            variation=0.5,
            variation_variant=variant,
        )
        judged = Judgement(labels, correct, logits if out else None, logits if inside else None)
        return float(terms(options, mask, judged)["variation"])

    once = 0.5 * float(total_variation(mask, "released"))
    assert variation("released", True, False) == pytest.approx(once)
    assert variation("released", False, True) == pytest.approx(once)
    assert variation("released", True, True) == pytest.approx(2 * once)
    paper = 0.5 * float(total_variation(mask, "paper"))
    assert variation("paper", True, True) == pytest.approx(paper)


@pytest.mark.parametrize("name", ["out_entropy", "out_classification", "in_classification"])
def test_what_has_no_weight_is_left_out(name: str) -> None:
    values = drawn(0)
    judged = Judgement(
        torch.tensor(values["labels"]),
        torch.tensor(values["correct"]).float(),
        torch.tensor(values["out"]),
        torch.tensor(values["inside"]),
    )
    got = terms(ObjectiveOptions(**{name: 1}), torch.from_numpy(values["mask"]), judged)
    assert set(got) == {name}


@pytest.mark.parametrize(
    ("weights", "out", "inside"),
    [
        ({"out_entropy": 1}, True, False),
        ({"in_classification": 1}, False, True),
        ({"in_classification": 1, "size_out": 1}, True, True),
        ({"out_classification": 1, "size_in": 1}, True, True),
    ],
)
def test_every_term_with_a_weight_is_judged(
    weights: dict[str, float], out: bool, inside: bool
) -> None:
    options = ObjectiveOptions(**weights)
    assert (options.judges_out, options.judges_in) == (out, inside)


def test_entropy_of_a_sure_critic_is_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0]], requires_grad=True)
    loss = objectives.out_entropy(logits, torch.ones(1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
