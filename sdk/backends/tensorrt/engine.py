"""A plan at work: profiles, execution contexts, addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

import klieg.backends.tensorrt.interface as api
from klieg.backends.tensorrt.bindings import TensorRT
from klieg.backends.tensorrt.profiles import EngineOptions
from klieg.errors import DeviceError, EngineError
from klieg.kernels.device import Device, Workspace
from klieg.kernels.device.array import DeviceArray

ALIGNMENT: Final = 256
"""Bytes; TensorRT needs inputs and outputs to lie at multiples of it."""


class Engine:
    """A deserialised plan on a device, freed when it is dropped.

    It is used by one thread at a time, with the context of the GPU active: see
    `CudaDevice.activated`.

    There is one execution context per image size that was asked for, made when it first is. Passes
    in a workspace of their own have contexts of their own, which die with it: TensorRT wants one
    that was recorded never to be changed again. All contexts share one block of memory
    for intermediate results, as large as the largest size needs: passes and graphs follow each
    other on one stream, so no two need it at the same time. What a context takes for itself is
    small, and outputs are allocated pass by pass.
    """

    def __init__(
        self,
        opened: TensorRT,
        plan: bytes,
        options: EngineOptions,
        outputs: Sequence[str],
        device: Device,
    ) -> None:
        """Deserialise a plan and allocate memory for intermediate results.

        Args:
            opened: TensorRT.
            plan: Bytes that were checked: deserialising them runs what they say.
            options: What the plan was built for.
            outputs: Names of its outputs.
            device: Where to compute.

        Raises:
            EngineError: TensorRT does not take the plan, or it is not what `options` say.
            DeviceMemoryError: the memory of the GPU is full.
        """
        self._opened, self._device = opened, device
        self.options, self.outputs = options, tuple(outputs)
        opened.log.clear()
        self._runtime = opened.runtime()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise opened.failure(
                EngineError,
                f"TensorRT {opened.version} cannot use the engine on {device.name}",
                "build it again with `klieg build`",
            )
        self._engine = engine
        self._check()
        self._scratch = device.allocate(max(1, engine.device_memory_size_v2))
        self._contexts: WeakKeyDictionary[Workspace, dict[int, api.IExecutionContext]] = (
            WeakKeyDictionary()
        )

    def enqueue(
        self,
        images: DeviceArray,
        targets: DeviceArray,
        outputs: Sequence[str],
        *,
        workspace: Workspace,
    ) -> list[DeviceArray]:
        """Enqueue a pass on the device's stream; see `DeviceBackend.enqueue`.

        Raises:
            EngineError: no profile holds these shapes, or an array is not as TensorRT needs it.
            DeviceError: TensorRT could not enqueue the pass.
            DeviceMemoryError: the memory of the GPU is full.
        """
        index = self._profile(images, targets)
        self._opened.log.clear()
        context = self._context(index, workspace)
        arrays = {"image": images, "target": targets}
        for name, array in arrays.items():
            self._done(context.set_input_shape(name, array.shape), f"set the shape of {name!r}")
        for name in self.outputs:
            shape = tuple(context.get_tensor_shape(name))
            if any(length < 0 for length in shape):
                raise EngineError(f"TensorRT does not know the shape of {name!r}: {list(shape)}")
            arrays[name] = DeviceArray.empty(workspace, shape, np.float32)
        for name, array in arrays.items():
            done = context.set_tensor_address(name, array.pointer)
            self._done(done, f"set the address of {name!r}")
        self._done(context.execute_async_v3(self._device.stream), "enqueue a pass")
        return [arrays[name] for name in outputs]

    def _check(self) -> None:
        """Compare inputs, outputs and profiles with what they have to be."""
        trt, engine = self._opened.package, self._engine
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        expected = {"image", "target", *self.outputs}
        sizes = len(self.options.sizes)
        if names != expected or engine.num_optimization_profiles != sizes:
            raise EngineError(
                f"the engine has {sorted(names)} and {engine.num_optimization_profiles} profiles, "
                f"expected {sorted(expected)} and {sizes}: build it again"
            )
        for name in sorted(names):
            dtype = trt.DataType.INT64 if name == "target" else trt.DataType.FLOAT
            got = engine.get_tensor_dtype(name)
            on_device = engine.get_tensor_location(name) == trt.TensorLocation.DEVICE
            if got != dtype or not on_device:
                where = "on the GPU" if on_device else "in the host's memory"
                raise EngineError(
                    f"the engine has {name!r} as {got} {where}, expected {dtype} on the GPU: "
                    "build it again"
                )

    def _profile(self, images: DeviceArray, targets: DeviceArray) -> int:
        """Return the number of the profile for these arrays."""
        for name, array, rank, dtype in (
            ("image", images, 4, np.float32),
            ("target", targets, 1, np.int64),
        ):
            if array.dtype != dtype or len(array.shape) != rank or array.pointer % ALIGNMENT:
                raise EngineError(
                    f"{name!r} is {array.dtype} {list(array.shape)} at {array.pointer:#x}, "
                    f"expected {np.dtype(dtype)} of rank {rank} at a multiple of {ALIGNMENT} bytes"
                )
        (batch, _, height, width), (classes,) = images.shape, targets.shape
        each, rest = divmod(classes, batch) if batch else (0, 0)
        if rest or height != width or not self.options.holds(height, each, batch):
            raise EngineError(
                f"got {batch} images of {height} x {width} pixels and {classes} classes, the "
                f"engine holds {self.options}: build another one with `klieg build`"
            )
        return self.options.sizes.index(height)

    def _context(self, index: int, workspace: Workspace) -> api.IExecutionContext:
        """Return the context of a profile in a workspace."""
        contexts = self._contexts.setdefault(workspace, {})
        if index not in contexts:
            strategy = self._opened.package.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
            if context is None:
                raise self._opened.failure(
                    DeviceError,
                    f"TensorRT could not make a context for {self.options.sizes[index]} pixels on "
                    f"{self._device.name}",
                )
            done = context.set_optimization_profile_async(index, self._device.stream)
            self._done(done, f"choose profile {index}")
            context.set_device_memory(self._scratch.pointer, self._scratch.size)
            contexts[index] = context
        return contexts[index]

    def _done(self, done: bool, what: str) -> None:
        if not done:
            raise self._opened.failure(
                DeviceError,
                f"TensorRT {self._opened.version} could not {what} on {self._device.name}",
            )
