"""Guided attacks and restoration, against the same formulas in torch and in plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.small_net import MEAN, STD, lively_net
from klieg import Explainer
from klieg.errors import InputError, OptionError
from klieg.evaluation.sanity.adversarial import (
    AttackResult,
    guided_attack,
    norm_reduction,
    restoration_sanity,
)
from klieg.export import export_classifier

SIZE = 24
NET = lively_net().double().requires_grad_(False)


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explainer]:
    path = tmp_path_factory.mktemp("attack") / "net.onnx"
    export_classifier(lively_net(), path, input_size=SIZE, mean=MEAN, std=STD, methods=["saliency"])
    with Explainer(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (3, 3, SIZE // 4, SIZE // 4))
    return np.kron(coarse, np.ones((4, 4))).astype(np.float32)


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    """Discs, soft at the edge; [3, S, S]."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    discs = [1.6 - np.hypot(rows - 8 - 3 * i, columns - 12) / 6 for i in range(3)]
    return np.clip(discs, 0, 1).astype(np.float32)


def logits_of(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64)[None, :, None, None] for v in (MEAN, STD))
    return NET((pixels / 255 - mean) / std)


def attack_in_torch(image: np.ndarray, mask: np.ndarray, beta: float, steps: int) -> np.ndarray:
    """Return the perturbation [C, S, S] of one image [C, S, S], by autograd in float64."""
    start = torch.from_numpy(image[None]).double()
    outside = 1 - torch.from_numpy(mask).double()
    target = int(logits_of(start).argmin())
    previous = logits_of(start)[0].detach()
    attacked = start.clone()
    for step in range(steps):
        previous[target] = -torch.inf
        rival = int(previous.argmax())
        x = attacked.clone().requires_grad_()
        logits = logits_of(x)
        loss = torch.nn.functional.cross_entropy(logits[:, [target, rival]], torch.tensor([0]))
        p = (x - start) / 255
        if p.abs().max() > 0:  # the norm has no gradient at 0
            loss = loss + beta * torch.linalg.vector_norm(p * outside) / p.numel() ** 0.5
        loss.backward()
        previous = logits[0].detach().clone()
        for index in np.ndindex(*attacked.shape[1:]):
            at = (0, *index)
            value = float(attacked[at]) - 1.0 * (1 - step / steps) * float(torch.sign(x.grad[at]))
            value = min(max(value, float(start[at]) - 12), float(start[at]) + 12)
            attacked[at] = min(max(value, 0), 255)
    return (attacked - start)[0].numpy()


@pytest.mark.parametrize("beta", [0.0, 8.0])
def test_equals_autograd(
    explainer: Explainer, images: np.ndarray, maps: np.ndarray, beta: float
) -> None:
    result = guided_attack(explainer, images, maps, beta=beta, steps=4)
    for got, image, mask in zip(result.perturbation, images, maps, strict=True):
        want = attack_in_torch(image, mask, beta, 4)
        # float32 may take another sign where a gradient is nearly 0; a wrong formula does so often.
        assert (np.abs(got - want) > 1e-3).mean() < 0.01
    np.testing.assert_allclose(
        result.norms,
        [np.sqrt(sum(float(v) ** 2 for v in p.ravel())) / 255 for p in result.perturbation],
        rtol=1e-6,
    )
    chances = torch.softmax(logits_of(torch.from_numpy(images + result.perturbation).double()), 1)
    for i, target in enumerate(result.targets):
        assert target == logits_of(torch.from_numpy(images[i : i + 1]).double()).argmin()
        # Logits of float32, off by 1e-6 of their size.
        assert result.confidence[i] == pytest.approx(float(chances[i, target]), rel=1e-4)


def test_a_map_keeps_the_attack_inside(
    explainer: Explainer, images: np.ndarray, maps: np.ndarray
) -> None:
    guided = guided_attack(explainer, images, maps, steps=30, bound=20, beta=200)
    unguided = guided_attack(explainer, images, maps, steps=30, bound=20, beta=0)
    for result in (guided, unguided):
        assert np.abs(result.perturbation).max() <= 20.0001  # x + p - x is rounded
        attacked = images + result.perturbation
        assert -1e-4 <= attacked.min() <= attacked.max() <= 255.0001
        before = np.array(
            [
                logits_of(torch.from_numpy(images).double()).softmax(1).numpy()[i, t]
                for i, t in enumerate(result.targets)
            ]
        )
        assert (result.confidence > before).all()
    outside, everywhere = maps[:, None] == 0, np.ones_like(images, dtype=np.bool_)
    for region, factor in ((outside, 0.2), (everywhere, 0.8)):
        changes = [np.abs(r.perturbation)[region & everywhere].mean() for r in (guided, unguided)]
        assert changes[0] < factor * changes[1]
    reduction = norm_reduction(guided, unguided)
    np.testing.assert_allclose(reduction, 1 - guided.norms / unguided.norms)
    assert (reduction > 0.2).all()


def test_one_image_alone_is_the_same(
    explainer: Explainer, images: np.ndarray, maps: np.ndarray
) -> None:
    whole = guided_attack(explainer, images, maps, beta=40, steps=5)
    one = guided_attack(explainer, images[1:2], maps[1:2], beta=40, steps=5)
    different = np.abs(whole.perturbation[1] - one.perturbation[0]) > 1e-3
    assert different.mean() < 0.01  # signs of gradients near 0, as above


def plain_sanity(
    image: np.ndarray, perturbation: np.ndarray, mask: np.ndarray, share: float, points: int
) -> float:
    """Restore pixel by pixel."""

    def chance(pixels: np.ndarray, label: int) -> float:
        return float(logits_of(torch.from_numpy(pixels[None]).double()).softmax(1)[0, label])

    label = int(logits_of(torch.from_numpy(image[None]).double()).argmax())
    places = sorted(np.ndindex(*mask.shape), key=lambda at: -mask[at])
    shown = (image + perturbation).astype(np.float64)
    stops = [round(share * mask.size * i / (points - 1)) for i in range(points)]
    curve, done = [], 0
    for stop in stops:
        for row, column in places[done:stop]:
            shown[:, row, column] = image[:, row, column]
        done = stop
        curve.append(chance(shown, label))
    area = sum((stops[i + 1] - stops[i]) * (curve[i] + curve[i + 1]) / 2 for i in range(points - 1))
    ideal = chance(image, label) * stops[-1]
    return (ideal - area) / ideal


@pytest.mark.parametrize(("share", "points"), [(0.1, 11), (1.0, 5), (0.3, 2)])
def test_sanity_equals_plain_loops(
    explainer: Explainer, images: np.ndarray, maps: np.ndarray, share: float, points: int
) -> None:
    """The maps have ties: discs of ones."""
    attack = guided_attack(explainer, images, maps, beta=1, steps=20)
    got = restoration_sanity(explainer, images, attack, maps, share=share, points=points)
    want = [
        plain_sanity(*one, share, points)
        for one in zip(images, attack.perturbation, maps, strict=True)
    ]
    np.testing.assert_allclose(got, want, atol=1e-5)  # probabilities of float32 logits


def test_sanity_of_extremes(explainer: Explainer, images: np.ndarray, maps: np.ndarray) -> None:
    nothing = AttackResult(np.zeros_like(images), np.zeros(3), np.zeros(3), np.zeros(3, int))
    scores = restoration_sanity(explainer, images, nothing, maps)
    np.testing.assert_allclose(scores, 0, atol=1e-6)
    attack = guided_attack(explainer, images, maps, beta=5, steps=40, bound=30)
    good, bad = (restoration_sanity(explainer, images, attack, m) for m in (maps, 1 - maps))
    assert (good < bad).all()


def test_what_cannot_be_used_is_refused(
    explainer: Explainer, small_explainer: Path, images: np.ndarray, maps: np.ndarray
) -> None:
    for wrong in ({"bound": 0}, {"beta": -1}, {"steps": 0}, {"step_size": 0}):
        with pytest.raises(OptionError, match="expected more than 0, 0 or more"):
            guided_attack(explainer, images, maps, **wrong)  # type: ignore[arg-type]
    attack = guided_attack(explainer, images, maps, steps=1)
    for wrong in ({"share": 0}, {"share": 1.5}, {"points": 1}):
        with pytest.raises(OptionError, match="share is"):
            restoration_sanity(explainer, images, attack, maps, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected \[B, C, S, S\]"):
        guided_attack(explainer, images, maps[:2])
    with pytest.raises(InputError, match=r"images have values outside 0\.\.255"):
        guided_attack(explainer, images + 200, maps)
    with pytest.raises(InputError, match=r"maps have values outside 0\.\.1"):
        guided_attack(explainer, images, maps * np.nan)
    with pytest.raises(InputError, match="expected the same"):
        restoration_sanity(explainer, images[:2], attack, maps[:2])
    with pytest.raises(InputError, match="one set of images"):
        norm_reduction(
            attack,
            AttackResult(attack.perturbation, attack.norms, attack.confidence, attack.targets + 1),
        )
    with Explainer(small_explainer) as without, pytest.raises(OptionError, match="saliency"):
        guided_attack(without, images, maps)
