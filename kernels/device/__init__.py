"""The GPU behind one small protocol: memory, modules, launches, all on one stream.

Everything that a device does is enqueued on `Device.stream`, in the primary context of the GPU, so
that pointers and order are shared with TensorRT, ONNX Runtime and whoever else computes there.
Implementations are chosen by name and never swapped silently; each imports its package when it is
opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Argument = np.int32 | np.uint64 | np.float32
"""What a kernel takes: whole numbers, pointers, numbers."""


class Buffer(Protocol):
    """Memory on the device, freed when nothing refers to it any more."""

    @property
    def pointer(self) -> int:
        """Address on the device."""

    @property
    def size(self) -> int:
        """Bytes."""


class Workspace(Protocol):
    """Where arrays on a device get their memory and content: the device, or memory laid out."""

    def allocate(self, size: int) -> Buffer:
        """See `Device`."""

    def copy_in(self, source: NDArray[Any], destination: Buffer) -> None:
        """See `Device`."""

    def copy_across(self, source: Buffer, destination: Buffer) -> None:
        """See `Device`."""


class Kernel(Protocol):
    """A function that runs on the device."""

    @property
    def name(self) -> str:
        """As the module calls it."""


class Module(Protocol):
    """Compiled code on the device."""

    def kernel(self, name: str) -> Kernel:
        """Return a function of the module.

        Raises:
            DeviceError: there is none of that name.
        """


class Device(Protocol):
    """One GPU and one stream on it.

    Several threads may call a device: a lock makes them wait for each other, and the stream runs
    what they enqueue in the order of the calls. A process that was forked cannot use it.

    Raises:
        DeviceError: by every call once the device is closed, has failed for good (an illegal
            address, a failed launch, a lost GPU), or in a forked process.
        InputError: by every call whose arguments cannot be right; nothing is enqueued then.
    """

    @property
    def name(self) -> str:
        """The GPU's name as its driver says."""

    @property
    def index(self) -> int:
        """Number of the GPU, as the CUDA driver counts, from 0."""

    @property
    def architecture(self) -> tuple[int, int]:
        """Compute capability, such as (9, 0)."""

    @property
    def stream(self) -> int:
        """Handle of the CUDA stream that everything is enqueued on."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Names and versions of what drives the GPU."""

    @property
    def kernel_code(self) -> bytes | None:
        """Klieg's kernels in a form of the device's own; None where they are compiled for it."""

    def allocate(self, size: int) -> Buffer:
        """Return `size` bytes of memory with undefined content.

        Raises:
            DeviceMemoryError: there is not that much left.
        """

    def copy_in(self, source: NDArray[Any], destination: Buffer) -> None:
        """Copy a C-contiguous array to the start of a buffer.

        The array may be changed as soon as this returns.
        """

    def copy_out(self, source: Buffer, destination: NDArray[Any]) -> None:
        """Wait for the stream, then fill a C-contiguous array from the start of a buffer."""

    def copy_across(self, source: Buffer, destination: Buffer) -> None:
        """Enqueue a copy of all of `source` to the start of `destination`; does not wait.

        The two must not overlap. Memory of somebody else has to stay as it is until the copy is
        done: it is not freed in the order of this stream.
        """

    def load(self, code: bytes) -> Module:
        """Load compiled code: a fatbin, a cubin or PTX.

        Raises:
            DeviceError: it holds nothing for this GPU and driver.
        """

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        *,
        shared: int = 0,
    ) -> None:
        """Enqueue a kernel.

        Args:
            kernel: A function of a module loaded here.
            grid: Number of blocks in x, y and z.
            block: Threads per block.
            arguments: In the kernel's order and of its types.
            shared: Bytes of dynamic shared memory per block.
        """

    def synchronise(self) -> None:
        """Wait until everything enqueued is done.

        Raises:
            DeviceError: something enqueued earlier failed.
        """

    def close(self) -> None:
        """Free the stream and the modules; the device cannot be used afterwards."""


class Graph(Protocol):
    """Launches recorded once, to be enqueued again at the cost of one."""

    def launch(self) -> None:
        """Enqueue all recorded launches, with the arguments they were recorded with.

        Raises:
            DeviceError: the recording is not finished, or failed.
        """


class CudaDevice(Device, Protocol):
    """What a real GPU offers beyond `Device`: sharing with other libraries, and graphs."""

    def activated(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context the current one of this thread while in the `with`.

        Libraries that compute on "the current GPU", such as TensorRT, need it around their calls.
        """

    def gpu_of(self, pointer: int) -> int | None:
        """Return the number of the GPU whose memory an address lies in, None for host memory."""

    def wait_for(self, stream: int) -> None:
        """Let everything enqueued from now on wait for what `stream` holds now. Does not block."""

    @property
    def label(self) -> str:
        """What opens it again, such as "cuda.core:0"."""

    @property
    def records(self) -> bool:
        """Whether `capture` works: with this package, on this stream."""

    def capture(self) -> AbstractContextManager[Graph]:
        """Record the launches made in the `with` instead of running them.

        Only launches can be recorded. Memory is allocated before, and every kernel has run once,
        since CUDA loads code at its first launch. The graph keeps the buffers its launches use;
        memory of what other libraries enqueue, theirs is to keep. Other threads wait meanwhile.

        Raises:
            DeviceError: the package cannot record, or something else than a launch was asked for.
        """
