"""Published architectures with random weights, as they are compared and measured.

A network fresh from its constructor is a poor test: activations shrink or grow by orders of
magnitude per layer, and some heads and branches start at zero. `build` gives it weights and
statistics like those of a trained one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from klieg.export.classifiers.sources import EFFICIENTNET_LITE0, open_source

CALIBRATION_SIZE: Final = 139
"""Pixels of the images that statistics are taken from; what Inception's last stages need."""


@dataclass(frozen=True)
class Network:
    """One architecture and what has to be known about it."""

    title: str
    name: str
    """Its function in torchvision.models."""
    size: int = 224
    """Height and width in pixels of the images it is made for."""
    smallest: int = 64
    """A small size at which every feature map still has several cells, for tests."""
    fixed_size: bool = False
    """True if its trace serves one image size only."""


NETWORKS: Final = (
    Network("ResNet-50", "resnet50", smallest=96),
    Network("VGG16", "vgg16"),
    Network("DenseNet-121", "densenet121", smallest=96),
    Network("Inception-v3", "inception_v3", size=299, smallest=139),
    Network("GoogLeNet", "googlenet", smallest=96),
    Network("AlexNet", "alexnet", smallest=96),
    Network("SqueezeNet 1.1", "squeezenet1_1"),
    Network("MobileNetV2", "mobilenet_v2", smallest=96),
    Network("MobileNetV3-L", "mobilenet_v3_large", smallest=96),
    Network("EfficientNet-B0", "efficientnet_b0", smallest=96),
    Network("EfficientNet-Lite0", EFFICIENTNET_LITE0, smallest=96),
    Network("RegNet-Y-400MF", "regnet_y_400mf", smallest=96),
    Network("ShuffleNetV2", "shufflenet_v2_x1_0", smallest=96),
    Network("ConvNeXt-T", "convnext_tiny", smallest=96),
    Network("ViT-B/16", "vit_b_16", fixed_size=True),
    Network("Swin-T", "swin_t", fixed_size=True),
)


def build(network: Network, *, size: int) -> nn.Module:
    """Return a network in evaluation mode, the same one at every call.

    EfficientNet-Lite0 comes with its real weights, the others with random ones.

    Args:
        network: Which one.
        size: Height and width of its images.
    """
    if network.name == EFFICIENTNET_LITE0:
        return _real(network.name)
    import torchvision

    torch.manual_seed(0)
    options: dict[str, Any] = {"image_size": size} if network.name == "vit_b_16" else {}
    if network.name in ("inception_v3", "googlenet"):
        options["init_weights"] = False  # theirs takes minutes and SciPy
    net: nn.Module = getattr(torchvision.models, network.name)(weights=None, **options)
    _fill_zeros(net)
    net.eval()
    _take_statistics(net, size if network.fixed_size else max(size, CALIBRATION_SIZE))
    return net.eval()


def _real(name: str) -> nn.Module:
    source = open_source(name, input_size=None, mean=None, std=None, class_names=None)
    assert isinstance(source.model, nn.Module)
    return source.model.eval()


def _fill_zeros(net: nn.Module) -> None:
    """Give random weights to what starts at zero or nearly: heads, and ConvNeXt's layer scale."""
    for name, parameter in net.named_parameters():
        is_matrix = parameter.ndim >= 2 and not parameter.any()
        if is_matrix or name.endswith("layer_scale"):
            nn.init.normal_(parameter, std=0.1)


def _take_statistics(net: nn.Module, size: int) -> None:
    """Set the statistics of batch normalisation to those of random images."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # a plain mean over the batches seen
            part.train()
    with torch.no_grad():
        net(torch.randn(4, 3, size, size))
