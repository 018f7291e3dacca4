"""A Backend on a torch module: autograd as the truth of what an explainer file computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from helpers.small_masker import small_masker
from helpers.small_net import MEAN, STD
from klieg.methods.model import Model
from klieg.model_file.explainer_file import ExplainerInfo

Tensor = torch.Tensor


def info(**changes: Any) -> ExplainerInfo:
    """Return what the explainer file of a SmallNet says about itself."""
    entries: dict[str, Any] = {
        "layer": "features",
        "input_size": 32,
        "scales": (32, 48, 64),
        "source_sha256": "",
        "mean": tuple(MEAN),
        "std": tuple(STD),
    }
    return ExplainerInfo(**{**entries, **changes})


class TorchBackend:
    """Computes the outputs of an explainer file with torch, and counts the rows it is given.

    The module is a SmallNet or one in its shape: `features`, `pool` to one cell, `head`. The layer
    is a prefix of `features`. Its masks are those of a `small_masker`.
    """

    def __init__(
        self, module: torch.nn.Module, *, layer: int | None = None, several_targets: bool = False
    ) -> None:
        self.module = copy.deepcopy(module).eval()
        for part in self.module.modules():
            if getattr(part, "inplace", False):
                part.inplace = False
        self.layer = layer
        self.several_targets = several_targets
        self.image_rows: list[int] = []
        self.target_rows: list[int] = []

    @property
    def versions(self) -> Mapping[str, str]:
        return {"torch": torch.__version__}

    def close(self) -> None:
        pass

    def model(self, **changes: Any) -> Model:
        """Return passes through this backend."""
        return Model(self, info(**changes), several_targets=self.several_targets)

    def run(
        self, images: np.ndarray, targets: np.ndarray, outputs: Sequence[str]
    ) -> list[np.ndarray]:
        assert images.dtype == np.float32
        assert targets.dtype == np.int64
        self.image_rows.append(len(images))
        self.target_rows.append(len(targets))
        each, rest = divmod(len(targets), len(images))
        assert rest == 0
        assert each == 1 or self.several_targets, "a file with one target per image"
        image = torch.from_numpy(images.copy()).requires_grad_()
        owner = torch.arange(len(images)).repeat_interleave(each)
        compute: dict[str, Callable[[], Tensor]] = {
            "image_gradient": lambda: self._image_gradient(self.module, image, targets),
            "guided_gradient": lambda: self._replaced(Guided, image, targets),
            "deconvnet_gradient": lambda: self._replaced(Deconvnet, image, targets),
            "excitation": lambda: self._excitation(image[owner], targets, 1),
            "contrast": lambda: (
                self._excitation(image[owner], targets, 1)
                - self._excitation(image[owner], targets, -1)
            ),
            "logits": lambda: self.logits(image),
            "activation": lambda: self._head(image)[0],
            "gradient": lambda: self._gradient(image[owner], targets),
            "mask": lambda: self._mask(image),
        }
        if each > 1:
            assert not {"image_gradient", "guided_gradient", "deconvnet_gradient"} & set(outputs)
        return [compute[name]().detach().numpy() for name in outputs]

    def logits(self, image: Tensor, module: torch.nn.Module | None = None) -> Tensor:
        mean, std = (torch.tensor(v, dtype=image.dtype).view(1, -1, 1, 1) for v in (MEAN, STD))
        return (module or self.module)((image / 255 - mean) / std)

    def _head(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the activation at the layer and the logits."""
        seen: list[Tensor] = []
        layers = self.module.features
        module = layers if self.layer is None else layers[self.layer]
        handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output))
        logits = self.logits(image)
        handle.remove()
        return seen[0], logits

    def _mask(self, image: Tensor) -> Tensor:
        masker = small_masker()
        seen: dict[str, Tensor] = {}
        handles = [
            self.module.get_submodule(tap).register_forward_hook(
                lambda _m, _i, output, tap=tap: seen.update({tap: output})
            )
            for tap in masker.taps
        ]
        self.logits(image)
        for handle in handles:
            handle.remove()
        height, width = image.shape[2:]
        return masker([seen[tap] for tap in masker.taps], (height, width))

    def _gradient(self, image: Tensor, targets: np.ndarray) -> Tensor:
        activation, logits = self._head(image)
        (gradient,) = torch.autograd.grad(_score(logits, targets), activation)
        constant = self.layer is None and self.module.pool.output_size == 1
        return gradient[:, :, :1, :1] if constant else gradient  # as the export finds out

    def _image_gradient(
        self, module: torch.nn.Module, image: Tensor, targets: np.ndarray
    ) -> Tensor:
        (gradient,) = torch.autograd.grad(_score(self.logits(image, module), targets), image)
        return gradient

    def _replaced(
        self, function: type[torch.autograd.Function], image: Tensor, targets: np.ndarray
    ) -> Tensor:
        """Differentiate with another rule for Relu."""
        module = copy.deepcopy(self.module)
        for number, part in enumerate(module.features):
            if isinstance(part, torch.nn.ReLU | torch.nn.ReLU6):
                module.features[number] = Lambda(function.apply)
        return self._image_gradient(module, image, targets)

    def _excitation(self, image: Tensor, targets: np.ndarray, sign: int) -> Tensor:
        """Winning probabilities at the end of `features`, where pool and one linear layer follow.

        Zhang et al. 2016, equation 5: a parent's probability goes to its children in the ratio of
        activation times positive weight.
        """
        activation, logits = self._head(image)
        classes = np.where(targets < 0, logits.argmax(dim=1), targets)
        weight = (sign * self.module.head.weight[classes]).clamp(min=0)[:, :, None, None]
        share = activation * weight
        return share / share.sum(dim=(1, 2, 3), keepdim=True)


class Lambda(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Guided(torch.autograd.Function):
    """Relu whose gradient passes only where it and the input are positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0].clamp(min=0) * (x > 0)


class Deconvnet(torch.autograd.Function):
    """Relu whose gradient passes only where it is positive itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp(min=0)


def _score(logits: Tensor, targets: np.ndarray) -> Tensor:
    classes = np.where(targets < 0, logits.argmax(dim=1), targets)
    return logits[torch.arange(len(logits)), torch.from_numpy(classes)].sum()
