"""Batches of a form seen before, replayed as one CUDA graph.

A graph repeats launches with the pointers that they were recorded with. So the memory of a batch is
laid out once: the first time it is run as it is, the second time its allocations are kept in order,
and run once more while the device records. From the third time on only the images are new, copied
to where the graph reads them: copies themselves cannot be recorded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from numpy.typing import NDArray

from klieg.errors import DeviceError, DeviceMemoryError
from klieg.kernels.device import Buffer, CudaDevice, Graph, Workspace
from klieg.kernels.device.array import DeviceArray

Found = TypeVar("Found")

PLANS: Final = 4
"""Forms of batches that are kept, those used last."""


@dataclass(eq=False)
class Layout:
    """The memory of one batch, in the order in which it is asked for: a `Workspace`."""

    device: CudaDevice
    buffers: list[Buffer] = field(default_factory=list)
    constants: list[tuple[int, bytes]] = field(default_factory=list)
    """Where something was copied to, and what."""
    _repeated: tuple[Iterator[Buffer], Iterator[tuple[int, bytes]]] | None = None

    def repeat(self) -> None:
        """Hand out the same memory again from now on, in the same order."""
        self._repeated = iter(self.buffers), iter(self.constants)

    def allocate(self, size: int) -> Buffer:
        """Return new memory, or the next buffer of what is repeated."""
        if self._repeated is None:
            self.buffers.append(self.device.allocate(size))
            return self.buffers[-1]
        buffer = next(self._repeated[0], None)
        if buffer is None or buffer.size != size:
            raise DeviceError(_DIFFERENT)
        return buffer

    def copy_in(self, source: NDArray[Any], destination: Buffer) -> None:
        """Copy a constant; one that is repeated is there already and only compared."""
        constant = (destination.pointer, source.tobytes())
        if self._repeated is None:
            self.constants.append(constant)
            self.device.copy_in(source, destination)
        elif next(self._repeated[1], None) != constant:
            raise DeviceError(_DIFFERENT)

    def copy_across(self, source: Buffer, destination: Buffer) -> None:
        """See `Device`."""
        self.device.copy_across(source, destination)


_DIFFERENT: Final = (
    "two runs of one batch asked for different memory, so they cannot be replayed: this is a bug "
    "of klieg, please report it"
)


@dataclass
class _Plan(Generic[Found]):
    """One form of batch."""

    layout: Layout
    inputs: list[DeviceArray] = field(default_factory=list)
    graph: Graph | None = None
    found: Found | None = None


class Replays(Generic[Found]):
    """Runs batches, replaying those whose form was seen before. For one thread at a time."""

    def __init__(self, device: CudaDevice) -> None:
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
        enqueue: Callable[[list[DeviceArray], Workspace], Found],
    ) -> Found:
        """Enqueue a batch. The next call overwrites its results.

        Args:
            form: Everything that decides which launches are made, besides the inputs' content.
            inputs: Arrays on the host or on the device; of one form they have the same shapes and
                types. What lies on the device is kept by the caller until the batch is done.
            enqueue: Enqueues the batch's launches, all on the device and with memory from the
                workspace that it is given, and returns where its results will be.

        Raises:
            DeviceMemoryError: there is too little memory even to run the batch as it is.
        """
        plan = self._plans.pop(form, None)
        if plan is None:
            arrays = [DeviceArray.on(self._device, array) for array in inputs]
            found = enqueue(arrays, self._device)
            if form not in self._too_large:
                self._plans[form] = _Plan(Layout(self._device))
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
        enqueue: Callable[[list[DeviceArray], Workspace], Found],
    ) -> Found:
        """Run a batch in memory that is kept, and record it once more there."""
        plan.inputs = [DeviceArray.of(self._device, array) for array in inputs]
        found = enqueue(plan.inputs, plan.layout)
        plan.layout.repeat()
        with self._device.capture() as graph:
            plan.found = enqueue(plan.inputs, plan.layout)
        plan.graph = graph
        return found
