"""Training of equal classifiers on changing photos, for ROAR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from klieg.errors import DivergedError, OptionError
from klieg.evaluation.options import check_at_least
from klieg.explainer import Explainer
from klieg.export.classifiers.sources import open_source
from klieg.export.classifiers.weights import weights_sha256
from klieg.training.sanity.erasure import ErasedPhotos

OPTIMISERS: Final[Mapping[str, Callable[..., torch.optim.Optimizer]]] = MappingProxyType(
    {"adam": torch.optim.Adam, "sgd": partial(torch.optim.SGD, momentum=0.9)}
)


class Retraining:
    """How each classifier is made, trained and tested."""

    def __init__(
        self,
        classifier: str | Callable[[], nn.Module],
        explainer: Explainer,
        *,
        epochs: int,
        batch_size: int,
        optimiser: str,
        learning_rate: float,
        seed: int,
        device: torch.device,
    ) -> None:
        """Check the options and make a first classifier; see `roar`.

        Raises:
            OptionError: an option has an impossible value.
        """
        if optimiser not in OPTIMISERS:
            raise OptionError(f"optimiser is {optimiser!r}, expected {' or '.join(OPTIMISERS)}")
        check_at_least(1, epochs=epochs)
        check_at_least(2, batch_size=batch_size)
        check_at_least(0, seed=seed)
        if not 0 < learning_rate < float("inf"):
            raise OptionError(f"learning_rate is {learning_rate:g}, expected a number above 0")
        self._build = _builder(classifier, explainer)
        self._epochs, self._batch_size, self._rate = epochs, batch_size, learning_rate
        self._optimiser, self._seed, self._device = optimiser, seed, device
        first = self._drawn()
        self._sha256 = weights_sha256(first)
        _check_answer(first.eval(), explainer)

    @property
    def configuration(self) -> dict[str, Any]:
        """All that decides an accuracy, apart from the photos."""
        return {
            "classifier": self._sha256,
            "epochs": self._epochs,
            "batch_size": self._batch_size,
            "optimiser": self._optimiser,
            "learning_rate": self._rate,
            "seed": self._seed,
        }

    def accuracy(self, training: ErasedPhotos, test: ErasedPhotos) -> float:
        """Train a fresh classifier and return the share of test photos that it gets right, 0..1.

        Raises:
            OptionError: the classifier is not a fresh one.
            DivergedError: the loss became NaN or infinite.
        """
        model = self._drawn()
        if weights_sha256(model) != self._sha256:
            raise OptionError(
                "the classifier starts with other weights than the first one did, though torch has "
                "the same seed: return a new module whose weights torch initialises"
            )
        model.to(self._device).train()
        optimiser = OPTIMISERS[self._optimiser](model.parameters(), lr=self._rate)
        loader = DataLoader(
            training,
            min(self._batch_size, len(training)),
            shuffle=True,
            drop_last=True,  # a last batch of one photo has no statistics to normalise by
            generator=torch.Generator().manual_seed(self._seed),
        )
        for epoch in range(self._epochs):
            for images, labels in loader:
                loss = functional.cross_entropy(
                    model(images.to(self._device)), labels.to(self._device)
                )
                if not loss.isfinite():
                    raise DivergedError(
                        f"the loss became {loss.item()} in epoch {epoch + 1}: lower learning_rate; "
                        "what was done before is kept"
                    )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        model.eval()
        right = 0
        with torch.no_grad():
            for images, labels in DataLoader(test, self._batch_size):
                answers: Tensor = model(images.to(self._device)).argmax(dim=1).cpu()
                right += int((answers == labels).sum())
        return right / len(test)

    def _drawn(self) -> nn.Module:
        """Return a classifier with the weights of the seed."""
        torch.manual_seed(self._seed)
        model = self._build()
        if not isinstance(model, nn.Module):
            raise OptionError(f"classifier returned a {type(model).__name__}, expected a module")
        return model


def _builder(classifier: str | Callable[[], nn.Module], explainer: Explainer) -> Callable[[], Any]:
    """Return the function that makes a classifier."""
    if isinstance(classifier, nn.Module):
        raise OptionError("classifier is a module, expected a function that returns a fresh one")
    if not isinstance(classifier, str):
        return classifier
    if ":" not in classifier:  # those that `open_source` knows by name are trained already
        raise OptionError(f"classifier is {classifier!r}, expected 'module:function'")
    info = explainer.info
    return lambda: (
        open_source(
            classifier, input_size=info.input_size, mean=info.mean, std=info.std, class_names=None
        ).model
    )


def _check_answer(model: nn.Module, explainer: Explainer) -> None:
    """See that a classifier returns a logit for every class."""
    size = explainer.info.input_size
    with torch.no_grad():
        shape = list(model(torch.zeros(2, explainer.channels, size, size)).shape)
    if shape != [2, explainer.classes]:
        raise OptionError(
            f"classifier returns the shape {shape} for 2 images, expected {[2, explainer.classes]} "
            "as the explainer file does"
        )
