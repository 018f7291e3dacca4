"""A classifier given as a torch module: its trace with one layer tapped, its true gradient."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from klieg.errors import ExportError
from klieg.export.classifiers.feature_maps import FeatureMap, feature_map
from klieg.export.classifiers.onnx_classifier import EXPECTED, larger_size
from klieg.export.classifiers.torch_masker import MaskHead, TorchMasker, traceable_enlargement
from klieg.export.classifiers.torch_tap import (
    CallRecorder,
    CallTap,
    ModuleTap,
    Tap,
    check_path,
    logits_of,
    plain_attention,
    run_tapped,
    traceable_pools,
)
from klieg.export.random_images import random_images

Tensor = torch.Tensor
Array = NDArray[np.float32]


class TorchClassifier:
    """A torch module with the layer to explain, and perhaps a masking model on top.

    Works on a copy in evaluation mode on the CPU, with in-place activations turned off: otherwise
    the tensor that a layer returned could change after it was looked at.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        layer: str | None,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        masker: MaskHead | None = None,
    ) -> None:
        """Find the layer and whether the module takes images of any size.

        Args:
            module: Maps normalised images [batch, channels, height, width] to logits
                [batch, classes].
            layer: Path of a sub-module, None for the last feature map.
            input_size: Height and width of the images it is made for.
            mean: Mean of each channel in 0..1 units.
            std: Standard deviation of each channel in 0..1 units.
            masker: The head that turns activations of the module into a mask.

        Raises:
            ExportError: there is no such layer, the module cannot be run, or the head gives no
                mask.
            OptionError: the masker is no such head.
        """
        self.module = copy.deepcopy(module).eval().cpu().float()
        for part in self.module.modules():
            if getattr(part, "inplace", False) is True:
                part.inplace = False  # type: ignore[assignment]
        self._mean = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        self._channels = len(mean)
        self.input_size = input_size
        calls = self._recorded(input_size)  # its own size has to work
        larger = self._recorded_larger(len(calls))
        self.any_size = larger is not None
        self.tap: Tap
        if layer is None:
            self.tap, self.feature_map = self._default_tap(calls, larger)
        else:
            self.tap, self.feature_map = self._named_tap(layer)
        self.layer = self.tap.name
        self.masker = None if masker is None else self._checked_masker(masker)

    def to_onnx(self) -> onnx.ModelProto:
        """Trace the module to ONNX: input `input`, outputs `logits`, `layer`, perhaps `mask`."""
        height, width = self.input_size, self.input_size
        axes: dict[int, Any] = {0: torch.export.Dim.AUTO}
        if self.any_size:
            # Unequal sides, or the tracer might conclude that they are always equal.
            width = larger_size(self.input_size)
            axes |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
        example = torch.zeros(2, self._channels, height, width)
        with _quiet(), plain_attention():
            program = torch.onnx.export(
                _Traced(self.module, self.tap, self.masker),
                (example,),
                dynamo=True,
                opset_version=18,
                input_names=["input"],
                output_names=["logits", "layer", *([] if self.masker is None else ["mask"])],
                dynamic_shapes=(axes,),
                verbose=False,
            )
        if program is None:
            raise ExportError("the tracer returned nothing")
        return program.model_proto

    def reference(
        self,
        images: Array,
        targets: Sequence[int] | NDArray[np.int64],
        *,
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, NDArray[np.floating]]:
        """Compute logits, activation, gradients and the mask with torch autograd.

        Args:
            images: [B, channels, H, W] in 0..255.
            targets: One class per image.
            dtype: Precision to compute in.

        Returns:
            `logits` [B, classes], `activation` [B, k, h, w], `gradient` [B, k, h, w],
            `image_gradient` [B, channels, H, W], and in float32 `mask` [B, 1, H, W] if there is a
            masker.
        """
        module = self.module if dtype == torch.float32 else copy.deepcopy(self.module).to(dtype)
        raw = torch.from_numpy(images).to(dtype).requires_grad_()
        normalised = self._normalised(raw)
        taps = [] if self.masker is None else self.masker.taps
        logits, (activation, *tapped) = run_tapped(module, [self.tap, *taps], normalised)
        score = logits[torch.arange(len(images)), torch.tensor(list(targets))].sum()
        gradient, image_gradient = torch.autograd.grad(score, [activation, raw])
        tensors = {
            "logits": logits,
            "activation": activation,
            "gradient": gradient,
            "image_gradient": image_gradient,
        }
        if self.masker is not None and dtype == torch.float32:
            tensors["mask"] = self.masker(tapped, normalised)
        arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        for name in ("activation", "gradient"):
            arrays[name] = self.feature_map.channels_first(arrays[name])
        return arrays

    def _normalised(self, raw: Tensor) -> Tensor:
        """Return images [B, channels, H, W] in 0..255 as the module takes them."""
        return (raw / 255 - self._mean.to(raw.dtype)) / self._std.to(raw.dtype)

    def _blank(self, size: int) -> Tensor:
        return torch.zeros(1, self._channels, size, size)

    def _recorded(self, size: int) -> list[Tensor]:
        image = self._blank(size)  # made outside, or it would be recorded itself
        recorder = CallRecorder()
        with torch.no_grad(), plain_attention(), recorder:
            logits_of(self.module(image))
        return recorder.outputs

    def _recorded_larger(self, calls: int) -> list[Tensor] | None:
        """Record a run on a larger image, None if the module takes images of one size only.

        So does one that computes in other steps then: a trace would hold for one of the two.
        """
        try:
            larger = self._recorded(larger_size(self.input_size))
        except (RuntimeError, AssertionError, ValueError):
            return None
        return larger if len(larger) == calls else None

    def _checked_masker(self, head: MaskHead) -> TorchMasker:
        masker = TorchMasker(head)
        images = random_images(self.input_size, channels=self._channels, seed=0)
        masker.check(self.module, self._normalised(torch.from_numpy(images)))
        return masker

    def _named_tap(self, layer: str) -> tuple[ModuleTap, FeatureMap]:
        check_path(self.module, layer)
        tap = ModuleTap(layer)
        sizes = [self.input_size, *([larger_size(self.input_size)] if self.any_size else [])]
        with torch.no_grad():
            shapes = [
                run_tapped(self.module, [tap], self._blank(size))[1][0].shape for size in sizes
            ]
        larger = shapes[1] if self.any_size else None
        found = feature_map(shapes[0], larger, before_attention=True)
        if found is None:
            raise ExportError(f"layer {layer!r} returns {list(shapes[0])}, {EXPECTED}")
        return tap, found

    def _default_tap(
        self, calls: list[Tensor], larger: list[Tensor] | None
    ) -> tuple[Tap, FeatureMap]:
        """Find the last feature map; every cell of it has to matter for the score."""
        for index in reversed(range(len(calls))):
            second = None if larger is None else larger[index].shape
            found = feature_map(calls[index].shape, second, before_attention=True)
            if found is not None and (found.layout != "tokens" or self._cells_matter(index, found)):
                return self._tap_of_call(index), found
        raise ExportError(f"found no feature map on the way to the logits, {EXPECTED}")

    def _cells_matter(self, index: int, found: FeatureMap) -> bool:
        """Return whether the score depends on tokens that are cells, not on the others only."""
        recorder, image = CallRecorder(), self._blank(self.input_size).requires_grad_()
        with plain_attention(), recorder:
            logits = logits_of(self.module(image))
        tokens = recorder.outputs[index]
        (gradient,) = torch.autograd.grad(logits.square().sum(), tokens, allow_unused=True)
        return gradient is not None and bool(gradient[:, found.extra :].any())

    def _tap_of_call(self, index: int) -> Tap:
        """Tap the outermost module that returns the tensor of a call, else the call."""
        returned: list[tuple[str, Any]] = []
        hooks = [
            part.register_forward_hook(lambda _m, _i, out, name=name: returned.append((name, out)))
            for name, part in self.module.named_modules()
            if name
        ]
        try:
            tensor = self._recorded(self.input_size)[index]
        finally:
            for hook in hooks:
                hook.remove()
        names = [name for name, output in returned if output is tensor]
        if not names:
            return CallTap(index, f"feature map {list(tensor.shape[1:])}")
        return CallTap(index, min(names, key=len))


class _Traced(torch.nn.Module):
    """The module in the form that the tracer takes: traceable operators only."""

    def __init__(self, module: torch.nn.Module, tap: Tap, masker: TorchMasker | None) -> None:
        super().__init__()
        self.module = module
        self.tap = tap
        self.masker = masker

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        taps = [] if self.masker is None else self.masker.taps
        with traceable_pools():
            logits, (layer, *tapped) = run_tapped(self.module, [self.tap, *taps], images)
            if self.masker is None:
                return logits, layer
            with traceable_enlargement():
                return logits, layer, self.masker(tapped, images)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer, which prints about its own internals."""
    loggers = [
        logging.getLogger(name) for name in ("torch.fx", "torch.onnx", "torch.export", "onnxscript")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
