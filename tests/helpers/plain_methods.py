"""Torch truths of the backward passes that are no gradients, written for reading, not for speed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock

Tensor = torch.Tensor


def rectified_gradient(net: nn.Module, images: Tensor, targets: list[int], *, mask: bool) -> Tensor:
    """Guided backpropagation (mask) or deconvnet: at every Relu only what is positive goes back.

    Args:
        net: Maps images to logits; its Relus are modules.
        images: [B, C, H, W].
        targets: One class per image.
        mask: True to also let nothing through where the Relu did not.
    """

    def hook(_: nn.Module, to_input: Any, from_output: Any) -> tuple[Tensor]:
        return ((to_input if mask else from_output)[0].clamp(min=0),)

    net = copy.deepcopy(net)
    for part in net.modules():
        if isinstance(part, nn.ReLU | nn.ReLU6):
            part.inplace = False
            part.register_full_backward_hook(hook)
    images = images.clone().requires_grad_()
    net(images)[torch.arange(len(images)), torch.tensor(targets)].sum().backward()
    return images.grad


def excite(part: nn.Module, x: Tensor, p: Tensor) -> Tensor:
    """Hand winning probabilities p of a module's outputs to its input x.

    Linear parts by equation 5 of Zhang et al. 2016, pools of maxima to the winner, the rest as it
    is; batch normalisation has to be folded away.
    """
    if isinstance(part, nn.Sequential):
        inputs = [x]
        for inner in part:
            inputs.append(inner(inputs[-1]))
        for inner, entered in zip(reversed(part), inputs[-2::-1], strict=True):
            p = excite(inner, entered, p)
        return p
    if isinstance(part, nn.Conv2d | nn.Linear):
        positive = copy.deepcopy(part)
        positive.weight.data.clamp_(min=0)
        positive.bias = None
        return _share(positive, x, p)
    if isinstance(part, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        return _share(part, x, p)
    if isinstance(part, nn.MaxPool2d | nn.Flatten):
        x = x.detach().requires_grad_()
        (result,) = torch.autograd.grad(part(x), x, p)
        return result
    if isinstance(part, BasicBlock):
        inner = nn.Sequential(part.conv1, part.relu, part.conv2)
        skip = part.downsample or nn.Sequential()
        a, b = inner(x).clamp(min=0), skip(x).clamp(min=0)
        total = torch.where(a + b > 0, a + b, 1.0)
        return excite(inner, x, p * a / total) + excite(skip, x, p * b / total)
    assert isinstance(part, nn.ReLU | nn.ReLU6 | nn.Identity | nn.Dropout), part
    return p


def excite_contrast(head: nn.Linear, x: Tensor, targets: list[int]) -> Tensor:
    """Return the winning probabilities at the head's input minus those of the negated classes."""
    p = torch.eye(head.out_features)[targets]
    dual = copy.deepcopy(head)
    dual.weight.data.neg_()
    return excite(head, x, p) - excite(dual, x, p)


def folded(net: nn.Module) -> nn.Module:
    """Return a ResNet with batch normalisation folded into its convolutions."""
    net = copy.deepcopy(net).eval()
    for part in net.modules():
        if isinstance(part, BasicBlock):
            for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
                setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm)))
                setattr(part, norm, nn.Identity())
            if part.downsample is not None:
                part.downsample = nn.Sequential(fuse_conv_bn_eval(*part.downsample))
            part.relu.inplace = False
    return net


def _share(linear: Callable[[Tensor], Tensor], x: Tensor, p: Tensor) -> Tensor:
    """P_j = a_j sum_i w_ij P_i / sum_j' w_ij' a_j', 0 where nothing excites."""
    a = x.detach().clamp(min=0).requires_grad_()
    z = linear(a)
    quotient = torch.where(z > 0, p / torch.where(z > 0, z, 1.0), 0.0)
    (sums,) = torch.autograd.grad(z, a, quotient)
    return (a * sums).detach()
