from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from helpers.small_net import lively_net
from klieg.training.model.critics import Critics
from klieg.training.model.masker import Masker
from klieg.training.optimisers import Optimisers
from klieg.training.settings.options import CriticOptions, MaskerOptions, OptimiserOptions

TAPS = ("features.3", "features")


def made(**options: Any) -> tuple[Masker, Critics, Optimisers]:
    critic_options = CriticOptions(
        regime="agnostic", learning_rate=0.02, momentum=0.5, weight_decay=0.1
    )
    torch.manual_seed(0)
    masker = Masker(MaskerOptions(taps=TAPS, channels=4), (8, 16))
    critics = Critics(lively_net(), critic_options, TAPS)
    optimisers = Optimisers(
        masker,
        critics,
        masker_options=OptimiserOptions(**options),
        critic_options=critic_options,
        steps_per_epoch=5,
    )
    return masker, critics, optimisers


def rates(optimisers: Optimisers, step: int) -> tuple[float, float]:
    optimisers.set_rates(step)
    adam, sgd = (optimisers.by_name[name].param_groups[0]["lr"] for name in ("adam", "sgd"))
    return adam, sgd


def test_rates_fall_to_a_tenth_as_published() -> None:
    _, _, optimisers = made(epochs=60, learning_rate=0.3, decay_every=20)
    for step, factor in ((0, 1), (99, 1), (100, 0.1), (199, 0.1), (200, 0.01), (299, 0.01), (7, 1)):
        assert rates(optimisers, step) == pytest.approx((0.3 * factor, 0.02 * factor))


def test_rates_follow_half_a_cosine() -> None:
    _, _, optimisers = made(epochs=4, learning_rate=0.3, schedule="cosine")
    for step in range(20):
        factor = (1 + math.cos(math.pi * step / 20)) / 2
        assert rates(optimisers, step) == pytest.approx((0.3 * factor, 0.02 * factor))


@pytest.mark.parametrize(("length", "limit"), [(7.0, 10), (30.0, 10), (30.0, 0.5)])
def test_long_gradients_of_the_masker_are_scaled_down(
    length: float, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    masker, _, optimisers = made(gradient_norm=limit)
    parameters = [p for p in masker.parameters() if p.requires_grad]
    gradients = [torch.randn_like(parameter) for parameter in parameters]
    norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    seen: list[torch.Tensor] = []
    adam = optimisers.by_name["adam"]
    monkeypatch.setattr(adam, "step", lambda: seen.extend(p.grad.clone() for p in parameters))
    optimisers.move_masker([gradient * length / norm for gradient in gradients])
    got = torch.cat([gradient.flatten() for gradient in seen])
    assert float(got.norm()) == pytest.approx(min(length, limit), rel=1e-4)
    assert all(parameter.grad is None for parameter in parameters)


def test_the_learner_moves_by_momentum() -> None:
    """SGD: v = 0.5 v + (g + 0.1 w), w = w - 0.02 v; long gradients are left as they are."""
    _, critics, optimisers = made()
    assert critics.learner is not None
    parameters = list(critics.learner.parameters())
    weights = [p.detach().clone() for p in parameters]
    speed = [torch.zeros_like(w) for w in weights]
    for _ in range(3):
        gradients = [50 * torch.randn_like(w) for w in weights]
        optimisers.move_learner([g.clone() for g in gradients])
        for w, v, g in zip(weights, speed, gradients, strict=True):
            v.mul_(0.5).add_(g + 0.1 * w)
            w.sub_(0.02 * v)
    for parameter, expected in zip(parameters, weights, strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-4)


def test_the_masker_moves_by_adam() -> None:
    masker, _, optimisers = made(learning_rate=0.01, weight_decay=0.2)
    other = copy.deepcopy(masker)
    parameters = [p for p in other.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=0.01, weight_decay=0.2)
    for _ in range(3):
        gradients = [0.01 * torch.randn_like(p) for p in parameters]
        optimisers.move_masker([g.clone() for g in gradients])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        adam.step()
    for one, expected in zip(masker.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, expected)
