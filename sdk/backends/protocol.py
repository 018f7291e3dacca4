"""What an engine is, and what it is once it has loaded an explainer file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from klieg.kernels.device import CudaDevice, Workspace
from klieg.kernels.device.array import DeviceArray
from klieg.model_file.explainer_file import ExplainerFile


class Engine(Protocol):
    """An engine and its options, before there is a file: `Explainer(path, backend=engine)`."""

    def opened(self, file: ExplainerFile) -> AbstractContextManager[Backend]:
        """Load an explainer file, to be freed at the end of the context.

        Raises:
            OptionError: an option has an impossible value.
            BackendError: the engine is not installed, lacks something, or refuses the file.
        """


class Backend(Protocol):
    """An engine that has loaded one explainer file."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Names and versions of what computes."""

    @property
    def device(self) -> CudaDevice | None:
        """The GPU on which arrays may stay, of a `DeviceBackend`; None if arrays are the host's."""

    def run(
        self, images: NDArray[np.float32], targets: NDArray[np.int64], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """Compute some outputs of the file.

        Args:
            images: [B, channels, H, W] in 0..255.
            targets: [B], -1 for the predicted class.
            outputs: Names of the outputs wanted.

        Returns:
            New arrays, one per name, as the file declares them.

        Raises:
            BackendError: the engine failed.
        """

    def close(self) -> None:
        """Free the engine; it cannot be used afterwards."""


class DeviceBackend(Backend, Protocol):
    """An engine whose inputs and outputs can stay on a GPU."""

    @property
    def device(self) -> CudaDevice:
        """Where it computes; everything is enqueued on its stream."""

    def check(
        self, *, images: int, sizes: Sequence[int], targets: int, outputs: Sequence[str]
    ) -> None:
        """Raise EngineError unless passes of these forms can be enqueued.

        Args:
            images: Number of images in a pass.
            sizes: Heights, which are widths, of the images of all passes.
            targets: Classes per image.
            outputs: Names of the outputs wanted.
        """

    @property
    def replays(self) -> bool:
        """True if batches of a form seen before are to be run as one recorded graph."""

    def enqueue(
        self,
        images: DeviceArray,
        targets: DeviceArray,
        outputs: Sequence[str],
        *,
        workspace: Workspace,
    ) -> list[DeviceArray]:
        """Enqueue a pass and return where its outputs will be; does not wait.

        Args:
            images: [B, channels, H, W] float32 in 0..255.
            targets: [B], or [B * n] with several targets, int64, -1 for the predicted class.
            outputs: Names of the outputs wanted.
            workspace: Where memory is allocated; what is recorded has one of its own.

        Returns:
            Arrays, one per name, as the file declares them. Their memory is theirs: it is not
            written to by later passes as long as they are held.

        Raises:
            BackendError: the engine failed, or holds no profile for this size.
        """


def opened_on(
    device: str | CudaDevice, make: Callable[[CudaDevice], Backend]
) -> AbstractContextManager[Backend]:
    """Load a file on a device: one opened here by its name is closed with the backend.

    This is no generator: whoever still uses the backend keeps it, though the context is dropped.

    Raises:
        OptionError, DeviceError: see `open_device`.
    """
    if not isinstance(device, str):
        return closing(make(device))
    from klieg.kernels.device import opening

    opened = opening.open_device(device)
    try:
        return _WithDevice(make(opened), opened)
    except BaseException:
        opened.close()
        raise


class _WithDevice(closing[Backend]):
    """Closes a backend and then its device."""

    def __init__(self, backend: Backend, device: CudaDevice) -> None:
        super().__init__(backend)
        self._device = device

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._device.close()


def is_device_backend(backend: Backend) -> TypeGuard[DeviceBackend]:
    """Return True if arrays may stay on the engine's GPU."""
    return backend.device is not None
