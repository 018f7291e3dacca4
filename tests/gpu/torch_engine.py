"""A torch module in the place of an engine, on a device's stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klieg.kernels.device import Device
from klieg.kernels.device.array import DeviceArray


class TorchEngine:
    """A `DeviceBackend` on a classifier whose layer is followed by a pool and a linear layer."""

    versions: Mapping[str, str] = {"torch": torch.__version__}

    def __init__(
        self,
        module: torch.nn.Module,
        layer: torch.nn.Module,
        device: Device,
        *,
        varying: bool,
        precision: str,
    ) -> None:
        """Tap a layer.

        Args:
            module: In evaluation mode, on the GPU.
            layer: Of the module.
            device: Its stream is used.
            varying: Hand the gradient out cell by cell, though it is the same everywhere.
            precision: float32 or float16, as `klieg export --precision` takes it: convolutions
                and matrix products compute in it, outputs and gradients stay float32.
        """
        self.device = device
        self._half = torch.autocast("cuda", torch.float16, enabled=precision == "float16")
        self.module, self._varying = module, varying
        self._stream: Any = torch.cuda.ExternalStream(device.stream)
        self._tapped: torch.Tensor | None = None
        layer.register_forward_hook(self._tap)

    def _tap(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        self._tapped = output.detach().float().requires_grad_()
        return self._tapped

    def enqueue(
        self, images: DeviceArray, targets: DeviceArray, outputs: Sequence[str], **_: Any
    ) -> list[DeviceArray]:
        """See `DeviceBackend`."""
        with torch.cuda.stream(self._stream):
            with torch.no_grad():
                image = torch.as_tensor(images, device="cuda") / 255
                asked = torch.as_tensor(targets, device="cuda")
            for parameter in self.module.parameters():
                parameter.requires_grad_(False)
            with self._half:
                logits = self.module(image).float()
            activation = self._tapped
            assert activation is not None
            classes = torch.where(asked < 0, logits.argmax(dim=1), asked)
            score = logits.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(score, activation)
            if not self._varying:
                gradient = gradient[:, :, :1, :1]
            tensors = {"logits": logits, "activation": activation, "gradient": gradient}
            return [_shared(tensors[name].detach().contiguous()) for name in outputs]

    def check(self, **_: Any) -> None:
        """See `DeviceBackend`."""

    def run(self, *_: Any) -> list[NDArray[np.float32]]:
        """Not needed here: everything stays on the device."""
        raise AssertionError("host arrays are not part of this check")

    def close(self) -> None:
        """See `Backend`."""


def _shared(tensor: torch.Tensor) -> DeviceArray:
    return DeviceArray(tensor.data_ptr(), tuple(tensor.shape), np.dtype(np.float32), tensor)
