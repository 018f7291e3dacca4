"""The masker: activations of a classifier in, a mask out.

Zolna, Geras, Cho: Classifier-agnostic saliency map extraction, 2018 (CASM); Phang, Park, Geras:
Investigating and simplifying masking-based saliency methods, 2020. Both use this decoder on a
ResNet-50; the first with five taps, the first of them raw, the second with the last two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from klieg.training.settings.options import MaskerOptions


class Masker(nn.Module):
    """Convolution per tap, one grid, convolution, sigmoid, enlargement to the image.

    Every tap gets a 1 x 1 convolution without bias, batch normalisation and Relu, and is resized
    bilinearly to the grid of the mask, whose cells are `stride` pixels wide; a 3 x 3 convolution of
    all of them gives one logit per cell.
    """

    def __init__(self, options: MaskerOptions, widths: Sequence[int]) -> None:
        """Draw the weights from torch's global generator.

        Args:
            options: Its form; `taps` are named.
            widths: Channels of each tap.
        """
        super().__init__()
        self.options = options
        self.taps = options.taps
        self.widths = tuple(widths)
        self.branches = nn.ModuleList(
            nn.Identity() if index == 0 and options.raw_first else _branch(width, options.channels)
            for index, width in enumerate(widths)
        )
        joined = sum(
            width if index == 0 and options.raw_first else options.channels
            for index, width in enumerate(widths)
        )
        self.merge = nn.Conv2d(joined, 1, 3, padding=1)
        self.log_temperature = nn.Parameter(
            torch.tensor(options.temperature).log(), requires_grad=options.learn_temperature
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(
                    part.weight, mode=options.initialisation, nonlinearity="relu"
                )

    def forward(self, activations: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the mask.

        Args:
            activations: One [B, k, h, w] per tap.
            size: Height and width of the image in pixels.

        Returns:
            [B, 1, height, width] in 0..1, 1 where the image is salient.
        """
        stride = self.options.stride
        grid = [(side + stride - 1) // stride for side in size]
        mask = self._mask(
            self._merged([b(a) for b, a in zip(self.branches, activations, strict=True)], grid)
        )
        if self.options.enlargement == "nearest":
            return functional.interpolate(mask, size=size, mode="nearest")
        # The weights of an enlargement add up to 1 only up to rounding.
        enlarged = functional.interpolate(mask, size=size, mode="bilinear", align_corners=False)
        return enlarged.clamp(0, 1)

    def _merged(self, features: Sequence[Tensor], grid: list[int]) -> Tensor:
        """Return `merge` of all features [B, k, h, w] resized to the grid: logits [B, 1, *grid].

        Resizing treats all channels alike, so the channels are summed first, once for each of the
        nine places of the kernel, and nine channels are resized in place of hundreds.
        """
        weights = self.merge.weight[0].flatten(1).t()  # [9, joined]
        placed: list[Tensor] = []
        used = 0
        for feature in features:
            part = weights[:, used : used + feature.shape[1], None, None]
            used += feature.shape[1]
            summed = functional.conv2d(feature, part)  # [B, 9, h, w]
            placed.append(
                functional.interpolate(summed, size=grid, mode="bilinear", align_corners=False)
            )
        shifts = torch.eye(9, dtype=weights.dtype, device=weights.device).reshape(1, 9, 3, 3)
        return functional.conv2d(sum(placed[1:], placed[0]), shifts, self.merge.bias, padding=1)

    def _mask(self, logits: Tensor) -> Tensor:
        """Turn the logits of the cells [B, 1, h, w] into their mask."""
        if self.options.gumbel == "none":
            return torch.sigmoid(logits)
        if not self.training:
            return (logits > 0).to(logits.dtype)
        return concrete_mask(
            logits,
            torch.rand_like(logits),
            self.log_temperature.exp(),
            hard=self.options.gumbel == "hard",
        )


def concrete_mask(logits: Tensor, uniform: Tensor, temperature: Tensor, *, hard: bool) -> Tensor:
    """Draw from the binary concrete distribution.

    m = sigmoid((logit + ln u - ln(1 - u)) / temperature); Maddison, Mnih, Teh: The concrete
    distribution, 2017, and Jang, Gu, Poole: Categorical reparameterization with Gumbel-softmax.

    Args:
        logits: [B, 1, h, w].
        uniform: Numbers in 0..1 of the same shape.
        temperature: A number above 0.
        hard: True for binary masks whose gradient is that of the soft ones.
    """
    noise = (uniform + _TINY).log() - (1 - uniform + _TINY).log()
    soft = torch.sigmoid((logits + noise) / temperature)
    return soft + ((soft > 0.5).to(soft.dtype) - soft).detach() if hard else soft


_TINY = 1e-8


def _branch(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )
