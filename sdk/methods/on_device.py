"""CAMERAS and CASM on a GPU from end to end: maps, logits and flags come back, nothing else.

The engine's outputs stay where they are; klieg's kernels read them on the same stream. The truth is
the same method of `klieg.methods.cameras` and `klieg.methods.masking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from klieg.backends import DeviceBackend
from klieg.errors import NumericalError
from klieg.images.batch import Indices
from klieg.kernels.cuda.contract import Contraction
from klieg.kernels.cuda.gate import Gates, gate
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.cuda.normalize import State, normalize
from klieg.kernels.cuda.pyramid import pyramid
from klieg.kernels.device import Device
from klieg.kernels.device.array import DeviceArray
from klieg.methods.model import Maps


@dataclass(frozen=True)
class DeviceQuestions:
    """B images on the device with n classes asked of each: N = B * n questions."""

    images: DeviceArray  # uint8 [B, S, S, C] or float32 [B, C, S, S], in 0..255
    targets: DeviceArray  # [N] int64, -1 for the predicted class; the n of an image side by side


@dataclass(frozen=True)
class DeviceMaps:
    """What is enqueued for a batch; no array is complete before the device has been waited for."""

    raw: DeviceArray  # [N, S, S] float32
    maps: DeviceArray  # [N, S, S] float32 in 0..1
    states: DeviceArray  # [N] int32, each a `State`
    logits: DeviceArray  # [B, classes] float32 at the first size
    gates: Gates  # classes, counted scales, and whether all logits are finite


def cameras(
    backend: DeviceBackend, kernels: Kernels, questions: DeviceQuestions, sizes: Sequence[int]
) -> DeviceMaps:
    """Enqueue what `klieg.methods.cameras.cameras` computes."""
    images, asked = questions.images, questions.targets
    batch, count = images.shape[0], asked.shape[0]
    gates = Gates.empty(kernels.workspace, batch, count // batch, len(sizes))
    contraction = Contraction(kernels, size=(sizes[0], sizes[0]), questions=count // batch)
    for step, size in enumerate(sizes):
        logits, activation, gradient = backend.enqueue(
            _at_size(kernels, images, size),
            asked if step == 0 else gates.targets,
            ("logits", "activation", "gradient"),
            workspace=kernels.workspace,
        )
        gate(kernels, logits, asked, gates, step=step)
        contraction.add(activation, gradient)
        if step == 0:
            first = logits
    raw = contraction.fuse(gates.used)
    return DeviceMaps(raw, *normalize(kernels, raw, masks=False), first, gates)


def casm(
    backend: DeviceBackend, kernels: Kernels, questions: DeviceQuestions, sizes: Sequence[int]
) -> DeviceMaps:
    """Enqueue what `klieg.methods.masking.casm` computes."""
    images, asked = questions.images, questions.targets
    gates = Gates.empty(kernels.workspace, images.shape[0], 1, 1)
    logits, mask = backend.enqueue(
        _at_size(kernels, images, sizes[0]),
        asked,
        ("logits", "mask"),
        workspace=kernels.workspace,
    )
    gate(kernels, logits, asked, gates, step=0)
    raw = DeviceArray(mask.pointer, (mask.shape[0], *mask.shape[2:]), mask.dtype, mask)
    maps, states = normalize(kernels, raw, masks=True)
    return DeviceMaps(maps, maps, states, logits, gates)  # a mask is its own map, freed of rounding


ALIGNMENT: Final = 256
"""Bytes; engines take inputs at multiples of it, as all memory of a device begins."""


def fetch(
    found: DeviceMaps,
    device: Device,
    sizes: Sequence[int],
    *,
    names: Indices,
    images: Indices,
    rows: Indices,
) -> Maps:
    """Wait, copy to the host and check.

    Args:
        found: What was enqueued.
        device: Where.
        sizes: Image sizes of the passes.
        names: [B] the number of each image in the batch, for messages.
        images: [M] the image of every question wanted.
        rows: [M] its number in `found`.

    Raises:
        NumericalError: a logit is NaN or infinite, or a mask is outside 0..1.
        DeviceError: something failed on the device; nothing of the batch is returned.
    """
    device.synchronise()
    for image, step in np.argwhere(found.gates.finite.to_host(device) == 0):
        raise NumericalError(
            f"the model returned NaN or infinite logits for image {names[image]} of the batch at "
            f"{sizes[step]} x {sizes[step]} pixels: the model or the image is outside its range"
        )
    states = found.states.to_host(device)
    for row in np.flatnonzero(states > State.FLAT):
        held = "NaN" if states[row] == State.NOT_A_NUMBER else "values outside 0..1"
        raise NumericalError(
            f"map {row} of the batch holds {held}: the model or the image is outside its range"
        )
    return Maps(
        raw=found.raw.to_host(device)[rows],
        logits=found.logits.to_host(device)[images],
        targets=found.gates.targets.to_host(device)[rows],
        scales_used=found.gates.used.to_host(device)[rows].astype(np.bool_),
        maps=found.maps.to_host(device)[rows],
        degenerate=states[rows] == State.FLAT,
    )


def _at_size(kernels: Kernels, images: DeviceArray, size: int) -> DeviceArray:
    """Return images as the engine takes them: [B, C, size, size] float32, aligned."""
    aligned = images.pointer % ALIGNMENT == 0  # rows of somebody else's array need not be
    if images.dtype == np.float32 and images.shape[2] == size and aligned:
        return images
    return pyramid(kernels, images, size)
