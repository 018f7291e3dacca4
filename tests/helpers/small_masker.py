"""A mask head for a SmallNet, quick to export."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


class SmallMasker(torch.nn.Module):
    """Convolution per tap, one grid of cells, convolution, sigmoid, enlargement to the image."""

    def __init__(self, taps: tuple[str, ...], widths: Sequence[int], *, mode: str) -> None:
        super().__init__()
        self.taps = taps
        self.mode = mode
        self.branches = torch.nn.ModuleList(torch.nn.Conv2d(width, 6, 1) for width in widths)
        self.merge = torch.nn.Conv2d(6 * len(widths), 1, 3, padding=1)

    def forward(self, activations: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        grid = [(side + 3) // 4 for side in size]
        cells = [
            functional.interpolate(branch(tap), size=grid, mode="bilinear", align_corners=False)
            for branch, tap in zip(self.branches, activations, strict=True)
        ]
        mask = torch.sigmoid(self.merge(torch.cat(cells, dim=1)))
        corners = {} if self.mode == "nearest" else {"align_corners": False}
        return functional.interpolate(mask, size=size, mode=self.mode, **corners)


WIDTHS = {"features.0": 8, "features.3": 8, "features.5": 12, "features.6": 16, "features": 16}


def small_masker(
    taps: tuple[str, ...] = ("features.5", "features"), *, mode: str = "nearest"
) -> SmallMasker:
    """Return a head with fixed random weights whose masks differ from image to image."""
    torch.manual_seed(1)
    head = SmallMasker(taps, [WIDTHS[tap] for tap in taps], mode=mode).eval()
    with torch.no_grad():
        head.merge.weight.mul_(8)
    return head
