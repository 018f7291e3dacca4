"""The gradients of a step against separate passes and `backward`, one per loss."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import resize

from helpers.small_net import MEAN, STD, lively_net
from klieg.training.model.critics import Critics
from klieg.training.model.infilling import blurred, open_infiller
from klieg.training.model.masker import Masker
from klieg.training.settings.options import CriticOptions, MaskerOptions, ObjectiveOptions
from klieg.training.step import Step, compute_step

TAPS = ("features.3", "features")
BOTH = ObjectiveOptions(
    out_entropy=0.7,
    out_classification=0.2,
    in_classification=1.3,
    size_out=4,
    size_in=2,
    variation=0.01,
    area=0.3,
    area_weight=0.5,
)
OUT = ObjectiveOptions(out_entropy=1, size_out=10)
IN = ObjectiveOptions(in_classification=1, size_in=1)


def tapped(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return logits and copies of the taps."""
    seen: list[Tensor] = []
    handles = [
        net.get_submodule(tap).register_forward_hook(lambda _m, _i, o: seen.append(o.detach() + 0))
        for tap in TAPS
    ]
    logits = net(x)
    for handle in handles:
        handle.remove()
    return logits, seen


def filled(x: Tensor, kept: Tensor, infill: str) -> Tensor:
    if infill == "mean":
        return x * kept
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    fill = (blurred((x * std + mean).clamp(0, 1)) - mean) / std
    return x * kept + fill * (1 - kept)


def masked_loss(
    options: ObjectiveOptions, m: Tensor, y: Tensor, k: Tensor, out: Tensor, inside: Tensor
) -> Tensor:
    """Compute the loss from the equations, image by image."""
    total = torch.zeros(())
    for i in range(len(m)):
        mean = m[i].mean()
        p_out = out[i].softmax(dim=0)
        total = total + options.out_entropy * k[i] * (p_out * p_out.log()).sum()
        total = total + options.out_classification * p_out[y[i]].log()
        total = total - options.in_classification * inside[i].softmax(dim=0)[y[i]].log()
        if k[i] and out[i].argmax() != y[i]:
            total = total - options.size_out * (1 - mean)
        if inside[i].argmax() == y[i]:
            total = total - options.size_in * (1 - mean)
        total = total + options.area_weight * (mean - options.area) ** 2
        if options.variation:
            dy, dx = m[i, 0, 1:] - m[i, 0, :-1], m[i, 0, :, 1:] - m[i, 0, :, :-1]
            border = (m[i] ** 2).sum() - (m[i, :, 4:-4, 4:-4] ** 2).sum()
            # Halved and once per direction, as released: both directions are looked at.
            total = total + options.variation * ((dy**2).sum() + (dx**2).sum() + 0.3 * border)
    return total / len(m)


def gradients(module: nn.Module) -> list[Tensor]:
    return [
        torch.zeros_like(p) if p.grad is None else p.grad
        for p in module.parameters()
        if p.requires_grad
    ]


class Case:
    """A step, and all that a plain computation of it needs."""

    def __init__(self, objective: ObjectiveOptions, infill: str = "mean", **options: Any) -> None:
        net = lively_net()
        torch.manual_seed(2)
        self.x = torch.randn(6, 3, 32, 32)
        self.critics = Critics(net, CriticOptions(**options), TAPS)
        self.size = options.get("image_size", 32)
        self.learner = copy.deepcopy(net).train(options.get("mode") != "eval")
        self.past = copy.deepcopy(net).eval()
        with torch.no_grad():
            for parameter in self.past.parameters():
                parameter.mul_(1.1)
        if self.critics.learner is not None:
            self.critics.pool.members[1] = self.past.state_dict()
        self.original = copy.deepcopy(net).eval()
        self.masker = Masker(MaskerOptions(taps=TAPS, channels=6), (8, 16))
        self.plain_masker = copy.deepcopy(self.masker)
        fixed, trained = self.critics.learner is None, options.get("taps") == "trained"
        # What the masker reads sees the whole image; what only judges sees it at its own size.
        self.clean_x = self.x if fixed or trained else self.sized(self.x)
        with torch.no_grad():
            clean = copy.deepcopy(self.original if fixed else self.learner)
            answers = clean(self.clean_x).argmax(dim=1)
        self.y = torch.where(torch.arange(6) < 4, answers, (answers + 1) % 5)
        self.k = (torch.arange(6) < 4).float()
        self.objective, self.infill = objective, infill

    def step(self) -> Step:
        return compute_step(
            self.x,
            self.y,
            masker=self.masker,
            critics=self.critics,
            objective=self.objective,
            infill=open_infiller(self.infill, mean=MEAN, std=STD, device=torch.device("cpu")),
            generator=np.random.default_rng(0),
        )

    def sized(self, images: Tensor) -> Tensor:
        return resize(images, [self.size, self.size], antialias=True)

    def clean(self) -> list[Tensor]:
        net = copy.deepcopy(self.learner)
        functional.cross_entropy(net(self.clean_x), self.y).backward()
        return gradients(net)

    def masked(self, judge: nn.Module, reader: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradients of the masker, and of the judge if it learnt."""
        judge, reader = copy.deepcopy(judge), copy.deepcopy(reader)
        with torch.no_grad():
            activations = tapped(reader, self.x)[1]
        m = self.plain_masker(activations, (32, 32))
        shown = [self.sized(filled(self.x, kept, self.infill)) for kept in (1 - m, m)]
        loss = masked_loss(self.objective, m, self.y, self.k, judge(shown[0]), judge(shown[1]))
        loss.backward()
        judge.zero_grad()
        uses = (self.objective.judges_out, self.objective.judges_in)
        for image, used in zip(shown, uses, strict=True):
            if used:
                functional.cross_entropy(judge(image.detach()), self.y).backward()
        return gradients(self.plain_masker), gradients(judge)


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    """Compare gradients relative to the largest: float32 sums in another order."""
    assert len(got) == len(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert largest > 1e-4
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5 * largest)


@pytest.mark.parametrize("objective", [BOTH, OUT, IN])
@pytest.mark.parametrize("infill", ["mean", "blur"])
def test_fixed(objective: ObjectiveOptions, infill: str) -> None:
    case = Case(objective, infill, regime="fixed")
    found = case.step()
    assert found.learner == []
    assert_same(found.masker, case.masked(case.original, case.original)[0])


@pytest.mark.parametrize("objective", [BOTH, OUT, IN])
@pytest.mark.parametrize("taps", ["frozen", "trained"])
def test_the_learner_judges_and_learns(objective: ObjectiveOptions, taps: str) -> None:
    case = Case(objective, regime="agnostic", taps=taps, historic=0)
    found = case.step()
    reader = case.original if taps == "frozen" else case.learner
    masker, learner = case.masked(case.learner, reader)
    assert_same(found.masker, masker)
    assert len(found.learner) == 2
    assert_same(found.learner[0], case.clean())
    assert_same(found.learner[1], learner)


@pytest.mark.parametrize("taps", ["frozen", "trained"])
def test_the_past_judges(taps: str) -> None:
    case = Case(BOTH, regime="agnostic", taps=taps, historic=1)
    found = case.step()
    reader = case.original if taps == "frozen" else case.learner
    assert_same(found.masker, case.masked(case.past, reader)[0])
    (clean,) = found.learner
    assert_same(clean, case.clean())


def test_the_present_judges_without_learning() -> None:
    case = Case(BOTH, regime="agnostic", taps="trained", historic=1, use_pool=False)
    found = case.step()
    assert_same(found.masker, case.masked(case.learner, case.learner)[0])
    (clean,) = found.learner
    assert_same(clean, case.clean())


@pytest.mark.parametrize("taps", ["frozen", "trained"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_judges_may_see_smaller_images(taps: str, mode: str) -> None:
    case = Case(BOTH, regime="agnostic", taps=taps, image_size=24, mode=mode)
    found = case.step()
    reader = case.original if taps == "frozen" else case.learner
    masker, learner = case.masked(case.learner, reader)
    assert_same(found.masker, masker)
    assert_same(found.learner[0], case.clean())
    assert_same(found.learner[1], learner)


def test_a_fixed_judge_may_see_smaller_images() -> None:
    case = Case(BOTH, "blur", regime="fixed", image_size=24)
    assert_same(case.step().masker, case.masked(case.original, case.original)[0])


def test_no_weight_moves_and_no_gradient_is_left() -> None:
    case = Case(BOTH, regime="agnostic", historic=0)
    assert case.critics.learner is not None
    before = [p.clone() for p in (*case.masker.parameters(), *case.critics.learner.parameters())]
    case.step()
    after = [*case.masker.parameters(), *case.critics.learner.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)


def test_terms_are_logged_with_the_mean_of_the_masks() -> None:
    found = Case(OUT, regime="fixed").step()
    assert set(found.terms) == {"out_entropy", "size_out", "mask"}
    assert 0 < found.terms["mask"] < 1


def test_running_statistics_mix_all_passes_as_published() -> None:
    case = Case(BOTH, regime="agnostic", historic=0)
    assert case.critics.learner is not None
    case.step()
    assert int(case.critics.learner.classifier.features[1].num_batches_tracked) == 3
    assert int(case.critics.original.classifier.features[1].num_batches_tracked) == 0
    kept = Case(BOTH, regime="agnostic", historic=0, mode="eval")
    assert kept.critics.learner is not None
    kept.step()
    assert int(kept.critics.learner.classifier.features[1].num_batches_tracked) == 0
