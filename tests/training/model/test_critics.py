from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from helpers.small_net import MEAN, STD, lively_net
from klieg.export.classifiers.weights import weights_sha256
from klieg.training.model.critics import Critics, Pool
from klieg.training.model.infilling import open_infiller
from klieg.training.model.masker import Masker
from klieg.training.optimisers import Optimisers
from klieg.training.settings.options import (
    CriticOptions,
    MaskerOptions,
    ObjectiveOptions,
    OptimiserOptions,
)
from klieg.training.step import compute_step

TAPS = ("features.3", "features")


def made(**options: Any) -> Critics:
    return Critics(lively_net(), CriticOptions(**{"regime": "agnostic", **options}), TAPS)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def move(critics: Critics, by: float = 1) -> None:
    """Change every weight of the learner."""
    assert critics.learner is not None
    with torch.no_grad():
        for parameter in critics.learner.parameters():
            parameter.add_(by)


def test_members_do_not_follow_the_learner() -> None:
    critics = made(historic=0.5)
    assert critics.learner is not None
    critics.remember(1, 0, generator())
    before = {n: t.clone() for n, t in critics.learner.classifier.state_dict().items()}
    move(critics)
    (member,) = critics.pool.members.values()
    for name, tensor in before.items():
        assert torch.equal(member[name], tensor)
    judge = made_judge(critics)
    for name, tensor in judge.state_dict().items():
        assert torch.equal(tensor, before[name])


def made_judge(critics: Critics) -> torch.nn.Module:
    """Return a judge from the pool, however long the dice take."""
    dice = generator()
    while (critic := critics.choose(dice)).learns:
        pass
    return critic.classifier


def test_using_a_member_does_not_change_it() -> None:
    critics = made(historic=1)
    critics.remember(1, 0, generator())
    (member,) = critics.pool.members.values()
    before = {name: tensor.clone() for name, tensor in member.items()}
    judge = critics.choose(generator()).classifier
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    with torch.no_grad():
        for parameter in judge.parameters():
            parameter.zero_()
    assert all(torch.equal(member[name], before[name]) for name in before)


def test_a_full_pool_replaces_a_random_member() -> None:
    gone: Counter[int] = Counter()
    for seed in range(300):
        pool, dice = Pool(3), generator(seed)
        for step in range(1, 5):
            pool.add(step, {"w": torch.tensor(float(step))}, dice)
            assert len(pool.members) == min(step, 3)
        assert 4 in pool.members
        (missing,) = {1, 2, 3} - set(pool.members)
        gone[missing] += 1
        assert all(float(state["w"]) == step for step, state in pool.members.items())
    assert set(gone) == {1, 2, 3}
    # A uniform choice of 300: each 100 +- 8.2, so that 65 is more than 4 deviations away.
    assert min(gone.values()) > 65


def test_members_are_drawn_alike() -> None:
    pool, dice = Pool(3), generator()
    for step in range(3):
        pool.add(step, {"w": torch.tensor(float(step))}, dice)
    drawn = Counter(float(pool.draw(dice)["w"]) for _ in range(300))
    assert min(drawn.values()) > 65
    assert len(drawn) == 3


def test_the_order_of_members_does_not_matter() -> None:
    pools = Pool(3), Pool(3)
    for pool, steps in zip(pools, ([5, 2, 9], [9, 5, 2]), strict=True):
        for step in steps:
            pool.members[step] = {"w": torch.tensor(float(step))}
    draws = [[float(pool.draw(generator(s))["w"]) for s in range(20)] for pool in pools]
    assert draws[0] == draws[1]


@pytest.mark.parametrize("every", [1, 3])
def test_snapshots_come_at_the_published_times(every: int) -> None:
    critics, taken = made(historic=0.5, snapshot_every=every, pool_size=99), []
    for step in range(14):
        critics.remember(step + 1, step % 7, generator())
        if step + 1 in critics.pool.members:
            taken.append(step)
    expected = [step for step in range(14) if step == 0 or step % 7 % every == every - 1]
    assert taken == expected


def test_probability_of_the_pool() -> None:
    def chosen(historic: float, **options: Any) -> Counter[bool]:
        critics = made(historic=historic, **options)
        critics.remember(1, 0, generator())
        dice = generator()
        return Counter(critics.choose(dice).learns for _ in range(200))

    assert chosen(0) == {True: 200}
    assert chosen(1) == {False: 200}
    assert 60 < chosen(0.5)[True] < 140
    assert 20 < chosen(0.8)[True] < 60


def test_without_a_pool_the_present_one_judges_but_does_not_learn() -> None:
    critics, dice = made(historic=1, use_pool=False), generator()
    for step in range(5):
        critics.remember(step + 1, step, dice)
        critic = critics.choose(dice)
        assert critic.classifier is critics.learner
        assert not critic.learns
    assert not critics.pool.members


def test_before_the_first_snapshot_nobody_from_the_past_judges() -> None:
    critics = made(historic=1)
    assert critics.choose(generator()).classifier is critics.learner


def test_a_fixed_regime_has_the_original_alone() -> None:
    critics = made(regime="fixed", historic=1)
    assert critics.learner is None
    critics.remember(1, 0, generator())
    assert not critics.pool.members
    critic = critics.choose(generator())
    assert critic.classifier is critics.original
    assert not critic.learns
    assert not critics.reads_learner


@pytest.mark.parametrize("taps", ["frozen", "trained"])
@pytest.mark.parametrize("historic", [0, 0.5])
def test_the_original_never_changes(taps: str, historic: float) -> None:
    given = lively_net().train()
    digest = weights_sha256(given)
    critics = Critics(
        given,
        CriticOptions(regime="agnostic", taps=taps, historic=historic, learning_rate=0.1),
        TAPS,
    )
    assert critics.learner is not None
    torch.manual_seed(0)
    masker = Masker(MaskerOptions(taps=TAPS), (8, 16))
    optimisers = Optimisers(
        masker,
        critics,
        masker_options=OptimiserOptions(),
        critic_options=critics.options,
        steps_per_epoch=9,
    )
    masks = weights_sha256(masker)
    for step in range(4):
        found = compute_step(
            torch.randn(4, 3, 32, 32),
            torch.arange(4),
            masker=masker,
            critics=critics,
            objective=ObjectiveOptions(out_entropy=1, in_classification=1, size_out=1),
            infill=open_infiller("mean", mean=MEAN, std=STD, device=torch.device("cpu")),
            generator=generator(step),
        )
        for gradients in found.learner:
            optimisers.move_learner(gradients)
        optimisers.move_masker(found.masker)
        critics.remember(step + 1, step, generator(step))
    assert weights_sha256(given) == digest
    assert given.training
    assert weights_sha256(critics.original.classifier) == digest
    assert weights_sha256(critics.learner.classifier) != digest
    assert weights_sha256(masker) != masks
    assert bool(critics.pool.members) == bool(historic)
