"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers.small_masker import SmallMasker
from helpers.toy_patches import MEAN, SIDE, STD, colour_net, listed, write_patches
from helpers.toy_training import write_photos
from klieg.export import export_classifier
from klieg.images.formats import read_image


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny networks many times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of five classes, four of each."""
    return write_photos(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of three classes."""
    return write_patches(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="session")
def patch_explainer(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that was trained on the photos, exported."""
    torch.manual_seed(1)
    net = colour_net().train()
    photos = listed(patches)
    images = torch.from_numpy(np.stack([read_image(one.path) for one in photos]))
    images = (images.permute(0, 3, 1, 2) / 255 - 0.25) / 0.25
    labels = torch.tensor([one.label for one in photos])
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(80):
        chosen = torch.randperm(len(photos))[:32]
        loss = nn.functional.cross_entropy(net(images[chosen]), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (net.eval()(images).argmax(dim=1) == labels).float().mean() > 0.95
    path = tmp_path_factory.mktemp("explainer") / "colours.onnx"
    export_classifier(
        net,
        path,
        input_size=SIDE,
        mean=MEAN,
        std=STD,
        layer="6",
        methods=["saliency"],
        masker=SmallMasker(("6",), [12], mode="nearest"),
        masker_name="a small one",
    )
    return path
