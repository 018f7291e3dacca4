"""Batches of a form seen before, replayed as one CUDA graph.

A graph repeats launches with the pointers that they were recorded with. So the memory of a batch is
laid out once: the first time it is run as it is, the second time its allocations are kept in order,
and run once more while the device records. From the third time on only the images are new, copied
to where the graph reads them: copies themselves cannot be recorded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from numpy.typing import NDArray

from klieg.errors import DeviceError, DeviceMemoryError
from klieg.kernels.device import Argument, Buffer, CudaDevice, Graph, Kernel, Module
from klieg.kernels.device.array import DeviceArray

Found = TypeVar("Found")

PLANS: Final = 4
"""Forms of batches that are kept, those used last."""


class ReplayDevice:
    """A device that can give out the same memory again, in the same order."""

    def __init__(self, device: CudaDevice) -> None:
        """Wrap a device that records."""
        self.inner: Final = device
        self._thread = threading.local()

    @property
    def name(self) -> str:
        """See `Device`."""
        return self.inner.name

    @property
    def index(self) -> int:
        """See `Device`."""
        return self.inner.index

    @property
    def architecture(self) -> tuple[int, int]:
        """See `Device`."""
        return self.inner.architecture

    @property
    def stream(self) -> int:
        """See `Device`."""
        return self.inner.stream

    @property
    def versions(self) -> Mapping[str, str]:
        """See `Device`."""
        return self.inner.versions

    @property
    def kernel_code(self) -> bytes | None:
        """See `Device`."""
        return self.inner.kernel_code

    @property
    def label(self) -> str:
        """See `CudaDevice`."""
        return self.inner.label

    @property
    def records(self) -> bool:
        """See `CudaDevice`."""
        return self.inner.records

    @property
    def layout(self) -> Layout | None:
        """What this thread's memory is taken from, None for new memory."""
        layout: Layout | None = getattr(self._thread, "layout", None)
        return layout

    def activated(self) -> AbstractContextManager[None]:
        """See `CudaDevice`."""
        return self.inner.activated()

    def gpu_of(self, pointer: int) -> int | None:
        """See `CudaDevice`."""
        return self.inner.gpu_of(pointer)

    def wait_for(self, stream: int) -> None:
        """See `CudaDevice`."""
        self.inner.wait_for(stream)

    def capture(self) -> AbstractContextManager[Graph]:
        """See `CudaDevice`."""
        return self.inner.capture()

    def __getattr__(self, name: str) -> Any:
        """Return whatever else the device offers."""
        return getattr(self.inner, name)

    def allocate(self, size: int) -> Buffer:
        """See `Device`."""
        layout = self.layout
        return self.inner.allocate(size) if layout is None else layout.allocate(self.inner, size)

    def copy_in(self, source: NDArray[Any], destination: Buffer) -> None:
        """See `Device`; while a layout is repeated what it holds already is only compared."""
        layout = self.layout
        if layout is None or layout.is_new(source, destination):
            self.inner.copy_in(source, destination)

    def copy_out(self, source: Buffer, destination: NDArray[Any]) -> None:
        """See `Device`."""
        self.inner.copy_out(source, destination)

    def copy_across(self, source: Buffer, destination: Buffer) -> None:
        """See `Device`."""
        self.inner.copy_across(source, destination)

    def load(self, code: bytes) -> Module:
        """See `Device`."""
        return self.inner.load(code)

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        *,
        shared: int = 0,
    ) -> None:
        """See `Device`."""
        self.inner.launch(kernel, grid, block, arguments, shared=shared)

    def synchronise(self) -> None:
        """See `Device`."""
        self.inner.synchronise()

    def close(self) -> None:
        """See `Device`."""
        self.inner.close()

    @contextmanager
    def laid_out(self, layout: Layout) -> Iterator[None]:
        """Take this thread's memory from a layout, which notes what is asked for or repeats it."""
        layout.begin()
        self._thread.layout = layout
        try:
            yield
        finally:
            self._thread.layout = None


@dataclass(eq=False)
class Layout:
    """The memory of one batch, in the order in which it is asked for."""

    buffers: list[Buffer] = field(default_factory=list)
    constants: list[tuple[int, bytes]] = field(default_factory=list)
    """Where something was copied to, and what."""
    full: bool = False
    _buffer: int = 0
    _constant: int = 0

    def begin(self) -> None:
        """Start over: note what is asked for, or repeat it if there is something."""
        self.full = bool(self.buffers)
        self._buffer = self._constant = 0

    def allocate(self, device: CudaDevice, size: int) -> Buffer:
        """Return the next buffer."""
        if not self.full:
            self.buffers.append(device.allocate(size))
            return self.buffers[-1]
        self._buffer += 1
        if self._buffer > len(self.buffers) or self.buffers[self._buffer - 1].size != size:
            raise DeviceError(_DIFFERENT)
        return self.buffers[self._buffer - 1]

    def is_new(self, source: NDArray[Any], destination: Buffer) -> bool:
        """Return whether the next copy has to be made, or was."""
        constant = (destination.pointer, source.tobytes())
        if not self.full:
            self.constants.append(constant)
            return True
        self._constant += 1
        if self._constant > len(self.constants) or self.constants[self._constant - 1] != constant:
            raise DeviceError(_DIFFERENT)
        return False


_DIFFERENT: Final = (
    "two runs of one batch asked for different memory, so they cannot be replayed: this is a bug "
    "of klieg, please report it"
)


@dataclass
class _Plan(Generic[Found]):
    """One form of batch."""

    inputs: list[DeviceArray] = field(default_factory=list)
    layout: Layout = field(default_factory=Layout)
    graph: Graph | None = None
    found: Found | None = None


class Replays(Generic[Found]):
    """Runs batches, replaying those whose form was seen before. For one thread at a time."""

    def __init__(self, device: ReplayDevice) -> None:
        """Begin with no batches seen.

        Args:
            device: Where everything is enqueued that will be recorded.
        """
        self._device = device
        self._plans: OrderedDict[Hashable, _Plan[Found]] = OrderedDict()
        self._too_large: set[Hashable] = set()

    def __call__(
        self,
        form: Hashable,
        inputs: Sequence[NDArray[Any] | DeviceArray],
        enqueue: Callable[[list[DeviceArray]], Found],
    ) -> Found:
        """Enqueue a batch. The next call overwrites its results.

        Args:
            form: Everything that decides which launches are made, besides the inputs' content.
            inputs: Arrays on the host or on the device; of one form they have the same shapes and
                types. What lies on the device is kept by the caller until the batch is done.
            enqueue: Enqueues the batch's launches, all on the device, and returns where its
                results will be.

        Raises:
            DeviceMemoryError: there is too little memory even to run the batch as it is.
        """
        plan = self._plans.pop(form, None)
        if plan is None:
            found = enqueue([DeviceArray.on(self._device, array) for array in inputs])
            if form not in self._too_large:
                self._plans[form] = _Plan()
                if len(self._plans) > PLANS:
                    with self._device.activated():
                        self._plans.popitem(last=False)
            return found
        if plan.graph is None:
            with suppress(DeviceMemoryError):  # a plan keeps what a run drops scale by scale
                found = self._record(plan, inputs, enqueue)
            if plan.graph is None:
                self._too_large.add(form)
                self._plans[form] = plan
                del plan
                self.clear()
                return self(form, inputs, enqueue)
        else:
            assert plan.found is not None
            found = plan.found
            for array, destination in zip(inputs, plan.inputs, strict=True):
                destination.fill(self._device, array)
            plan.graph.launch()
        self._plans[form] = plan
        return found

    def clear(self) -> None:
        """Forget all forms and free their memory; the device must have been waited for."""
        with suppress(DeviceError), self._device.activated():  # engines free what is theirs in it
            self._plans.clear()
        self._plans.clear()  # of a lost GPU, which cannot be activated, there is nothing to free

    def _record(
        self,
        plan: _Plan[Found],
        inputs: Sequence[NDArray[Any] | DeviceArray],
        enqueue: Callable[[list[DeviceArray]], Found],
    ) -> Found:
        """Run a batch in memory that is kept, and record it once more there."""
        device = self._device
        plan.inputs = [DeviceArray.of(device, array) for array in inputs]
        with device.laid_out(plan.layout):
            found = enqueue(plan.inputs)
        with device.laid_out(plan.layout), device.inner.capture() as graph:
            plan.found = enqueue(plan.inputs)
        plan.graph = graph
        return found
