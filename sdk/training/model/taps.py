"""Reading the activations of named layers while a classifier runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from klieg.errors import TrainingError


class TappedClassifier(nn.Module):
    """A classifier that also returns the activations of some of its layers."""

    def __init__(self, classifier: nn.Module, taps: Sequence[str]) -> None:
        """Find the layers.

        Args:
            classifier: Maps images [B, C, H, W] to logits [B, classes]; its activations stop
                working in place.
            taps: Module paths ("layer4.1"), of which the last call counts.

        Raises:
            TrainingError: there is no such layer.
        """
        super().__init__()
        self.taps = tuple(taps)
        for part in classifier.modules():
            # What follows a tap would otherwise change what it returned.
            if getattr(part, "inplace", False) is True:
                part.inplace = False  # type: ignore[assignment]
        known = _paths(classifier)
        for tap in self.taps:
            if tap not in known:
                raise TrainingError(_missing(tap, known))
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits [B, classes] and one activation [B, k, h, w] per tap."""
        with _recorded(self.classifier, self.taps) as seen:
            logits: Tensor = self.classifier(images)
        return logits, [_checked(tap, seen.get(tap)) for tap in self.taps]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into evaluation mode.

    A frozen classifier may be part of a module that trains, so modes are kept part by part.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def module_paths(classifier: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that layers are named after.

    Args:
        classifier: What the names are about.
        names: Module paths, which timm's feature names are too, or names of nodes as
            `torchvision.models.feature_extraction` gives them: "layer4.1.relu_1" is the second
            call of the module "layer4.1.relu".

    Raises:
        TrainingError: there is no such layer, or it is not the last call of a module, so that a
            masker that reads it could not be exported.
    """
    known = _paths(classifier)
    if set(names) <= set(known):
        return tuple(names)
    nodes = _nodes(classifier)
    return tuple(name if name in known else _module_of(name, known, nodes) for name in names)


def _module_of(name: str, known: Sequence[str], nodes: Sequence[str]) -> str:
    if name not in nodes:
        raise TrainingError(_missing(name, [*known, *nodes]))
    path = _without_number(name)
    calls = [node for node in nodes if _without_number(node) == path]
    if path not in known or calls[-1] != name:
        raise TrainingError(
            f"layer {name!r} is not the last call of a module, which a masker that can be exported "
            f"has to read: name a module such as {path.rpartition('.')[0] or known[-1]!r}"
        )
    return path


def _without_number(node: str) -> str:
    return re.sub(r"_\d+$", "", node)


@dataclass(frozen=True)
class _Layer:
    path: str
    stride: int


def default_taps(
    classifier: nn.Module, decoder: str, *, size: int, channels: int
) -> tuple[str, ...]:
    """Choose the layers of a published decoder by their stride.

    CASM reads ResNet-50 behind its first pool and behind each stage: the first layer of stride 4
    and the last ones of stride 4, 8, 16 and 32. The simplified recipe keeps the last two. Here a
    layer is a module at most two levels deep.

    Args:
        classifier: Maps images [B, C, H, W] to logits.
        decoder: "casm" or "simplified".
        size: Height and width in pixels of the images it is made for.
        channels: Number of channels of an image.

    Raises:
        TrainingError: the classifier has no such layers.
    """
    layers = _layers(classifier, size, channels)
    strides = sorted({layer.stride for layer in layers if layer.stride >= 4})
    last = {layer.stride: layer.path for layer in layers}
    chosen = [last[stride] for stride in strides]
    if decoder == "simplified":
        chosen = chosen[-2:]
    elif strides:
        first = next(layer.path for layer in layers if layer.stride == strides[0])
        chosen = list(dict.fromkeys([first, *chosen]))
    if len(chosen) < 2:
        raise TrainingError(
            f"found {len(chosen)} feature maps of different strides, expected at least 2: name the "
            "layers with masker.taps"
        )
    return tuple(chosen)


def _layers(classifier: nn.Module, size: int, channels: int) -> list[_Layer]:
    """Return the feature maps of an image in order of computation, outermost module of each."""
    paths = [path for path in _paths(classifier) if path.count(".") < 2]
    with evaluating(classifier), torch.no_grad(), _recorded(classifier, paths) as seen:
        classifier(torch.zeros(1, channels, size, size))
    return [
        _Layer(path, round(size / output.shape[2]))
        for path, output in seen.items()
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1
    ]


@contextmanager
def _recorded(classifier: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Collect the output of the last call of each module, in the order of these calls."""
    seen: dict[str, Any] = {}

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.pop(path, None)
            # A copy, as what follows may work in place: an exported masker reads it before.
            seen[path] = output.clone() if isinstance(output, Tensor) else output

        return hook

    handles = [classifier.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _paths(classifier: nn.Module) -> list[str]:
    return [path for path, _ in classifier.named_modules() if path]


def _nodes(classifier: nn.Module) -> list[str]:
    """Return the names of the classifier's nodes in order, none if it cannot be traced."""
    from torchvision.models.feature_extraction import get_graph_node_names

    try:
        names: list[str] = get_graph_node_names(classifier)[1]
    except (torch.fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError):
        return []
    return names


def _missing(tap: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(tap, known, n=3) or known[-3:]
    return f"the classifier has no layer {tap!r}: did you mean one of {near}?"


def _checked(tap: str, activation: Any) -> Tensor:
    if not isinstance(activation, Tensor) or activation.ndim != 4:
        shape = list(activation.shape) if isinstance(activation, Tensor) else type(activation)
        raise TrainingError(f"layer {tap!r} returned {shape}, expected an activation [B, k, h, w]")
    return activation
