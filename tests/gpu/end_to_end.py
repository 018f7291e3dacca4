"""CAMERAS from images to maps on one GPU, with torch in the engine's place."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from published import median_seconds

from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.device import CudaDevice
from klieg.kernels.device.array import DeviceArray
from klieg.methods.on_device import DeviceQuestions, cameras, fetch
from rows import Row, Skipped

if TYPE_CHECKING:
    from torch_engine import TorchEngine

SIZES = tuple(range(224, 925, 100))


def rows(device: CudaDevice, name: str) -> Iterator[Row]:
    """Compare with the bare passes and with the published code."""
    try:
        import torch
        import torchvision
        from torch_engine import TorchEngine
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed: it stands in for an engine") from error
    if not torch.cuda.is_available():
        raise Skipped("this torch sees no GPU")
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval().cuda()
    published = median_seconds(lambda: _published(theirs), rounds=3)
    for precision in ("float32", "float16"):
        ours = deepcopy(theirs).to(memory_format=torch.channels_last)
        for varying in (False, True):
            engine = TorchEngine(ours, ours.layer4, device, varying=varying, precision=precision)
            for batch in (1, 16):
                what = (
                    f"{precision}, batch {batch}, {'varying' if varying else 'constant'} gradient"
                )
                yield from _compared(device, engine, batch, what, batch * published)


def _compared(
    device: CudaDevice, engine: TorchEngine, batch: int, what: str, published: float
) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    kernels = Kernels(device)
    photos = generator.integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    questions = DeviceQuestions(
        DeviceArray.of(device, photos), DeviceArray.of(device, np.zeros(batch, dtype=np.int64))
    )
    prepared = [
        DeviceArray.of(device, generator.uniform(0, 255, (batch, 3, s, s)).astype(np.float32))
        for s in SIZES
    ]

    outputs = ("logits", "activation", "gradient")

    def passes() -> None:
        for images in prepared:
            engine.enqueue(images, questions.targets, outputs, workspace=device)
        device.synchronise()

    def whole() -> None:
        found = cameras(engine, kernels, questions, SIZES)
        every = np.arange(batch)
        fetch(found, device, SIZES, names=every, images=every, rows=every)

    bare, taken = median_seconds(passes), median_seconds(whole)
    what = f"CAMERAS, ResNet-50, {what}"
    rest = taken / bare - 1
    yield Row(
        what,
        f"{taken * 1e3:.1f} ms, passes {bare * 1e3:.1f} ms, rest {rest:.1%}",
        "rest at most 10 %",
        rest <= 0.1,
    )
    yield Row(
        f"{what}, against the published code",
        f"{published / taken:.1f} times faster, {published / bare:.1f} if the rest took no time",
        "10 times" if batch == 16 else "",
        published >= 10 * taken if batch == 16 else None,
    )


def _published(module: object) -> None:
    import torch

    from klieg.export.classifiers.torch_tap import ModuleTap
    from klieg.export.parity.published_cameras import published_cameras

    image = torch.rand(1, 3, 224, 224, device="cuda")
    published_cameras(module, ModuleTap("layer4"), image, SIZES, target=0)
