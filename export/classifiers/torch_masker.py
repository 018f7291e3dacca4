"""A masking model: a small head that reads named layers of a torch classifier.

The classifier stays what it is. One pass gives its logits and a mask of what is salient in the
image, whatever the class.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final, Protocol

import torch
from torch.nn import functional

from klieg.errors import ExportError, OptionError
from klieg.export.classifiers.torch_tap import ModuleTap, Replacing, check_path, run_tapped

Tensor = torch.Tensor

ROUNDING: Final = 1e-5
"""The weights of a bilinear enlargement add up to 1 only up to rounding."""


class MaskHead(Protocol):
    """A torch module that turns activations of a classifier into a mask."""

    @property
    def taps(self) -> Sequence[str]:
        """Module paths of the classifier; of a module called several times the last call counts."""

    def __call__(self, activations: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the mask.

        Args:
            activations: One [B, k, h, w] per tap, as the module returned it, before anything that
                follows changed it in place.
            size: Height and width of the image in pixels; symbolic under the tracer.

        Returns:
            [B, 1, height, width] float32 in 0..1.
        """


class TorchMasker(torch.nn.Module):
    """A copy of a mask head, in evaluation mode on the CPU, with the taps that it reads."""

    def __init__(self, head: MaskHead) -> None:
        """Copy the head.

        Raises:
            OptionError: it is no torch module, or names no taps.
        """
        super().__init__()
        taps = getattr(head, "taps", None)
        if not isinstance(head, torch.nn.Module) or isinstance(taps, str) or not taps:
            raise OptionError(
                f"masker is {type(head).__name__} with taps {taps!r}, expected a torch module "
                "whose `taps` list paths of the classifier's modules"
            )
        self.head = copy.deepcopy(head).eval().cpu().float()
        self.taps = tuple(ModuleTap(path) for path in taps)

    def forward(self, activations: Sequence[Tensor], images: Tensor) -> Tensor:
        """Return the mask [B, 1, H, W] of images [B, channels, H, W]."""
        mask: Tensor = self.head(activations, (images.shape[2], images.shape[3]))
        return mask

    def check(self, module: torch.nn.Module, images: Tensor) -> None:
        """Try the head.

        Args:
            module: The classifier.
            images: Normalised images [B, channels, H, W].

        Raises:
            ExportError: a tap is missing or is no feature map, or the result is no mask.
        """
        for tap in self.taps:
            check_path(module, tap.name, what="tap of the masker")
        with torch.no_grad():
            _, activations = run_tapped(module, self.taps, images)
            for tap, activation in zip(self.taps, activations, strict=True):
                if activation.ndim != 4:
                    raise ExportError(
                        f"tap {tap.name!r} of the masker returns {list(activation.shape)}, "
                        "expected [batch, channels, rows, columns]: name another module"
                    )
            mask = self(activations, images)
        expected = [len(images), 1, *images.shape[2:]]
        if list(mask.shape) != expected or mask.dtype != torch.float32:
            raise ExportError(
                f"the masker returns {mask.dtype} {list(mask.shape)} for images "
                f"{list(images.shape)}, expected float32 {expected}: enlarge it to `size`"
            )
        low, high = float(mask.min()), float(mask.max())
        if not (low >= 0 and high <= 1 + ROUNDING):  # also refuses NaN
            raise ExportError(
                f"the masker returns values in {low:.3g}..{high:.3g}, expected 0..1: "
                "let it end in a sigmoid"
            )


def traceable_enlargement() -> Replacing:
    """Write enlargement to the nearest cell as gathers of torch's own indices.

    Engines compute the place of a cell in other steps, and at sizes such as 2 to 82 round it to
    another cell.
    """
    return Replacing(functional.interpolate, _interpolate)


def _interpolate(
    input: Tensor,  # noqa: A002 (torch's name)
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    **options: Any,
) -> Tensor:
    if mode != "nearest" or input.ndim != 4 or scale_factor is not None:
        return functional.interpolate(input, size, scale_factor, mode, **options)
    rows, columns = (size, size) if isinstance(size, int | torch.SymInt) else tuple(size)
    picked = input.index_select(2, _nearest(input.shape[2], rows))
    # Whole rows are copied many times faster than single columns.
    turned = picked.transpose(2, 3).index_select(2, _nearest(input.shape[3], columns))
    return turned.transpose(2, 3)


def _nearest(cells: int, pixels: Any) -> Tensor:
    """Return the cell of each pixel [pixels]: torch's own float32 arithmetic, step by step."""
    have, wanted = (torch.full((1,), size, dtype=torch.float32) for size in (cells, pixels))
    scale = have / wanted
    return (torch.arange(pixels).float() * scale).floor().long().clamp(max=cells - 1)
