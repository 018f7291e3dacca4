"""Infilling: the colours that replace the masked part of an image.

Phang et al., section on infilling: the masked image is x * kept + fill * (1 - kept). The fill is
computed without gradient, so the mask learns through the composition alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from klieg.errors import OptionError
from klieg.training.settings.options import NETWORK_SUFFIXES

BLUR_SIGMA: Final = 20
"""Standard deviation in pixels of the blurred fill, as published."""
TELEA_RADIUS: Final = 3

Fill = Callable[[Tensor, Tensor], Tensor]
"""(images [B, C, H, W] in 0..1, missing [B, 1, H, W] in 0..1) -> fill [B, C, H, W] in 0..1"""


@dataclass(frozen=True)
class Infiller:
    """Replaces the masked part of normalised images."""

    mean: Tensor  # [1, C, 1, 1] in 0..1 units
    std: Tensor  # [1, C, 1, 1]
    fill: Fill | None
    """None for the mean colour, which is 0 once normalised."""

    def __call__(self, images: Tensor, kept: Tensor) -> Tensor:
        """Return images * kept + fill * (1 - kept).

        Args:
            images: Normalised images [B, C, H, W].
            kept: [B, 1, H, W] in 0..1, 1 where the picture is shown.
        """
        if self.fill is None:
            return images * kept
        with torch.no_grad():
            colours = (images * self.std + self.mean).clamp(0, 1)
            found = self.fill(colours, 1 - kept)
            if found.shape != images.shape:
                raise OptionError(
                    f"infill returns {list(found.shape)}, expected images {list(images.shape)}"
                )
            fill = (found - self.mean) / self.std
        return images * kept + fill * (1 - kept)


def open_infiller(
    name: str, *, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Infiller:
    """Find an infiller.

    Args:
        name: "mean" colour, "black", "blur" (Gaussian, sigma 20 pixels), "telea" (OpenCV), or the
            path of an inpainting network: an ONNX or TorchScript file that takes images
            [B, 3, H, W] in 0..1, 0 where they are missing, and [B, 1, H, W], 1 where they are, and
            returns images in 0..1.
        mean: Mean per channel in 0..1 units.
        std: Standard deviation per channel, likewise.
        device: Where the images are; inpainting networks run there too.

    Raises:
        OptionError: there is no such infiller, or ONNX Runtime cannot use the device.
    """

    def per_channel(values: Sequence[float]) -> Tensor:
        return torch.tensor(list(values), device=device).reshape(1, -1, 1, 1)

    return Infiller(per_channel(mean), per_channel(std), _fill(name, device))


def _fill(name: str, device: torch.device) -> Fill | None:
    match name:
        case "mean":
            return None
        case "black":
            return lambda images, _missing: torch.zeros_like(images)
        case "blur":
            return lambda images, _missing: blurred(images)
        case "telea":
            return telea
    path = Path(name)
    if path.suffix not in NETWORK_SUFFIXES or not path.is_file():
        raise OptionError(
            f"infill is {name!r}, expected mean, black, blur, telea, or the path of an inpainting "
            "network (.onnx, or TorchScript .pt)"
        )
    network = _onnx_network if path.suffix == ".onnx" else _torchscript_network
    return network(path, device)


def blurred(images: Tensor, sigma: float = BLUR_SIGMA) -> Tensor:
    """Blur images [B, C, H, W] by a Gaussian cut off at 4 sigma, 0 outside the image."""
    radius = int(np.ceil(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    weights = (-offsets.square() / (2 * sigma**2)).exp()
    weights = (weights / weights.sum()).expand(images.shape[1], 1, -1)  # [C, 1, taps]
    channels = images.shape[1]
    for kernel, padding in (
        (weights.unsqueeze(3), (radius, 0)),
        (weights.unsqueeze(2), (0, radius)),
    ):
        images = functional.conv2d(images, kernel, padding=padding, groups=channels)
    return images


def telea(images: Tensor, missing: Tensor) -> Tensor:
    """Inpaint RGB images [B, 3, H, W] in 0..1 where missing [B, 1, H, W] exceeds one half.

    Telea: An image inpainting technique based on the fast marching method, 2004.
    """
    pictures = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    holes = (missing > 0.5)[:, 0].byte().cpu().numpy()
    filled = [
        cv2.inpaint(picture, hole, TELEA_RADIUS, cv2.INPAINT_TELEA)
        for picture, hole in zip(pictures, holes, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).to(images.device).permute(0, 3, 1, 2) / 255


def _onnx_network(path: Path, device: torch.device) -> Fill:
    import onnxruntime

    provider = f"{device.type.upper()}ExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise OptionError(
            f"this ONNX Runtime cannot run {path} on {device.type}: install one that can, pass the "
            "network as TorchScript, or train on the processor"
        )
    try:
        session: Any = onnxruntime.InferenceSession(str(path), providers=[provider])
    except Exception as error:  # onnxruntime's errors have no common class
        raise OptionError(f"cannot read {path} as an ONNX network: {error}") from error
    names = [value.name for value in session.get_inputs()]
    if len(names) != 2:
        raise OptionError(f"{path} has the inputs {names}, expected two: images, missing")

    def fill(images: Tensor, missing: Tensor) -> Tensor:
        operands = (images * (1 - missing), missing)
        feeds = {n: o.float().cpu().numpy() for n, o in zip(names, operands, strict=True)}
        return torch.from_numpy(session.run(None, feeds)[0]).to(images)

    return fill


def _torchscript_network(path: Path, device: torch.device) -> Fill:
    try:
        network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise OptionError(f"cannot read {path} as a TorchScript network: {error}") from error

    def fill(images: Tensor, missing: Tensor) -> Tensor:
        filled: Tensor = network(images * (1 - missing), missing)
        return filled

    return fill
