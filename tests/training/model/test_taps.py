from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from helpers.small_net import SmallNet, lively_net
from klieg.errors import TrainingError
from klieg.training.model.taps import TappedClassifier, default_taps, module_paths


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(weights=None).eval()


def images(size: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def hooked(module: nn.Module, path: str, x: torch.Tensor) -> torch.Tensor:
    """Return a copy of what a layer returns, before anything that follows changes it."""
    seen: list[torch.Tensor] = []
    handle = module.get_submodule(path).register_forward_hook(
        lambda _m, _i, o: seen.append(o.clone())
    )
    module(x)
    handle.remove()
    return seen[-1]


@pytest.mark.parametrize("size", [224, 160])
def test_published_taps_of_a_resnet(resnet: nn.Module, size: int) -> None:
    assert default_taps(resnet, "simplified", size=size, channels=3) == ("layer3", "layer4")
    assert default_taps(resnet, "casm", size=size, channels=3) == (
        "maxpool",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    )


def test_default_taps_of_a_small_net() -> None:
    net = lively_net()
    assert default_taps(net, "simplified", size=32, channels=3) == ("features.3", "features")
    assert default_taps(net, "casm", size=32, channels=3) == ("features.3", "features")
    net.train()
    default_taps(net, "casm", size=32, channels=3)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_a_classifier_without_feature_maps() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    with pytest.raises(TrainingError, match=r"found 0 feature maps.*masker\.taps"):
        default_taps(net, "simplified", size=32, channels=3)


@pytest.mark.parametrize(
    "path", ["layer4", "layer2.0", "layer1.0.conv1", "layer1.0.bn2", "maxpool"]
)
def test_module_paths(resnet: nn.Module, path: str) -> None:
    logits, (activation,) = TappedClassifier(resnet, [path])(images())
    torch.testing.assert_close(logits, resnet(images()), rtol=0, atol=0)
    torch.testing.assert_close(activation, hooked(resnet, path, images()), rtol=0, atol=0)


def test_names_of_torchvision(resnet: nn.Module) -> None:
    # The last thing that a block does is its second relu; a module in the list is its last node.
    names = ["layer3.0.relu_1", "layer4.1.relu_1", "layer2", "maxpool"]
    taps = module_paths(resnet, names)
    assert taps == ("layer3.0.relu", "layer4.1.relu", "layer2", "maxpool")
    _, found = TappedClassifier(resnet, taps)(images())
    for path, activation in zip(["layer3.0", "layer4.1", "layer2", "maxpool"], found, strict=True):
        torch.testing.assert_close(activation, hooked(resnet, path, images()), rtol=0, atol=0)


@pytest.mark.parametrize("number", range(8))
def test_what_follows_in_place_does_not_change_a_tap(number: int) -> None:
    net = lively_net()
    plain = SmallNet().eval()
    plain.load_state_dict(net.state_dict())
    for part in plain.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    path = f"features.{number}"
    _, (activation,) = TappedClassifier(net, [path])(3 * images(32))
    torch.testing.assert_close(activation, hooked(plain, path, 3 * images(32)), rtol=0, atol=0)


class Twice(nn.Module):
    """Calls one block two times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.block(x).relu()).mean(dim=(2, 3))


class Again(nn.Module):
    """Calls one of two layers of the same stride once more after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.enter, self.end = nn.Conv2d(3, 3, 4, 4), nn.Conv2d(3, 3, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.one(self.other(self.one(self.enter(x))))).mean(dim=(2, 3))


def test_the_last_layer_of_a_stride_is_the_one_called_last() -> None:
    assert default_taps(Again(), "simplified", size=32, channels=3) == ("one", "end")


def test_of_a_shared_module_the_last_call_counts() -> None:
    net, x = Twice(), images(16)
    _, (activation,) = TappedClassifier(net, ["block"])(x)
    torch.testing.assert_close(activation, net.block(net.block(x).relu()), rtol=0, atol=0)


class Untraceable(nn.Module):
    """Decides on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x if x.sum() > 0 else -x).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("net", "tap", "message"),
    [
        (lively_net(), "featurs", r"no layer 'featurs': did you mean .*'features'"),
        (lively_net(), "", r"no layer ''"),
        (Untraceable(), "cov", r"no layer 'cov': did you mean .*'conv'"),
    ],
)
def test_missing_layers(net: nn.Module, tap: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        module_paths(net, [tap])
    with pytest.raises(TrainingError, match=message):
        TappedClassifier(net, [tap])


def test_missing_nodes(resnet: nn.Module) -> None:
    with pytest.raises(TrainingError, match=r"'layer4.1.relu_2'.*'layer4.1.relu_1'"):
        module_paths(resnet, ["layer4", "layer4.1.relu_2"])


@pytest.mark.parametrize("node", ["layer4.1.add", "layer4.1.relu"])
def test_nodes_that_are_no_last_call(resnet: nn.Module, node: str) -> None:
    names = ["layer4.1.relu_1", node]
    if node.endswith("relu"):  # the path of the module, whose last call counts
        assert module_paths(resnet, names) == ("layer4.1.relu", "layer4.1.relu")
    else:
        with pytest.raises(TrainingError, match=r"'layer4.1.add' is not the last .*'layer4.1'"):
            module_paths(resnet, names)


@pytest.mark.parametrize("path", ["head", "unused"])
def test_layers_that_are_no_feature_maps(path: str) -> None:
    net: Any = lively_net()
    net.unused = nn.Identity()
    with pytest.raises(TrainingError, match=rf"layer '{path}' returned .*expected an activation"):
        TappedClassifier(net, [path])(images(32))
