"""Reading the activations of named layers while a classifier runs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from klieg.errors import TrainingError
from klieg.training.modes import evaluating


class TappedClassifier(nn.Module):
    """A classifier that also returns the activations of some of its layers."""

    def __init__(self, classifier: nn.Module, taps: Sequence[str]) -> None:
        """Find the layers.

        Args:
            classifier: Maps images [B, C, H, W] to logits [B, classes]; its activations stop
                working in place.
            taps: Module paths ("layer4.1"), of which the last call counts, or names of nodes as
                `torchvision.models.feature_extraction` gives them ("layer4.1.relu_1").

        Raises:
            TrainingError: there is no such layer.
        """
        super().__init__()
        self.taps = tuple(taps)
        for part in classifier.modules():
            # What follows a tap would otherwise change what it returned.
            if getattr(part, "inplace", False) is True:
                part.inplace = False  # type: ignore[assignment]
        modules = dict(classifier.named_modules())
        self._hooked = all(tap and tap in modules for tap in taps)
        self.classifier = classifier if self._hooked else _extractor(classifier, self.taps)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits [B, classes] and one activation [B, k, h, w] per tap."""
        if not self._hooked:
            found = self.classifier(images)
            return found[_LOGITS], [found[tap] for tap in self.taps]
        seen: dict[str, Tensor] = {}

        def keep(tap: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                # A copy, as what follows may work in place: an exported masker reads it before.
                seen[tap] = output.clone() if isinstance(output, Tensor) else output

            return hook

        handles = [
            self.classifier.get_submodule(tap).register_forward_hook(keep(tap)) for tap in self.taps
        ]
        try:
            logits: Tensor = self.classifier(images)
        finally:
            for handle in handles:
                handle.remove()
        return logits, [_checked(tap, seen.get(tap)) for tap in self.taps]


_LOGITS = "logits"


@dataclass(frozen=True)
class _Layer:
    path: str
    stride: float
    channels: int


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
    seen: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.pop(path, None)  # the last call counts, also for the order
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1:
                seen[path] = output

        return hook

    parts = [(path, part) for path, part in classifier.named_modules() if 0 <= path.count(".") < 2]
    handles = [part.register_forward_hook(keep(path)) for path, part in parts if path]
    try:
        with evaluating(classifier), torch.no_grad():
            classifier(torch.zeros(1, channels, size, size))
    finally:
        for handle in handles:
            handle.remove()
    return [_Layer(path, round(size / a.shape[2]), a.shape[1]) for path, a in seen.items()]


def _extractor(classifier: nn.Module, taps: Sequence[str]) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    try:
        names = get_graph_node_names(classifier)[1]
    except Exception as error:  # a module that cannot be traced fails in many ways
        raise TrainingError(
            _missing(classifier, taps, []) + f" (not traceable: {error})"
        ) from error
    modules = {path for path, _ in classifier.named_modules() if path}
    if not set(taps) <= modules | set(names):
        raise TrainingError(_missing(classifier, taps, names))
    nodes = {tap: tap for tap in taps} | {names[-1]: _LOGITS}
    extractor: nn.Module = create_feature_extractor(classifier, return_nodes=nodes)
    return extractor


def _missing(classifier: nn.Module, taps: Sequence[str], names: Sequence[str]) -> str:
    known = [path for path, _ in classifier.named_modules() if path]
    tap = next(tap for tap in taps if tap not in known and tap not in names)
    near = difflib.get_close_matches(tap, [*known, *names], n=3) or known[-3:]
    return f"the classifier has no layer {tap!r}: did you mean one of {near}?"


def _checked(tap: str, activation: Any) -> Tensor:
    if not isinstance(activation, Tensor) or activation.ndim != 4:
        shape = list(activation.shape) if isinstance(activation, Tensor) else type(activation)
        raise TrainingError(f"layer {tap!r} returned {shape}, expected an activation [B, k, h, w]")
    return activation
