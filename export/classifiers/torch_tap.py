"""Catching the output of one layer while a torch module runs, eagerly or under the tracer."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from klieg.errors import ExportError

Tensor = torch.Tensor


class Tap(Protocol):
    """A place in a module whose tensor is wanted."""

    @property
    def name(self) -> str:
        """The place in words."""

    def attached(self, module: torch.nn.Module) -> AbstractContextManager[list[Tensor]]:
        """Collect the tensors seen there while the module runs; the last one counts."""


@dataclass(frozen=True)
class ModuleTap:
    """The output of a sub-module, of its last call if it is called several times."""

    name: str

    @contextmanager
    def attached(self, module: torch.nn.Module) -> Iterator[list[Tensor]]:
        """See `Tap`."""
        seen: list[Tensor] = []

        def keep(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise ExportError(
                    f"layer {self.name!r} returns {type(output).__name__}, expected one tensor"
                )
            seen.append(output)

        handle = module.get_submodule(self.name).register_forward_hook(keep)
        try:
            yield seen
        finally:
            handle.remove()


@dataclass(frozen=True)
class CallTap:
    """The output of the index-th torch function, among those that a `CallRecorder` records."""

    index: int
    name: str

    @contextmanager
    def attached(self, module: torch.nn.Module) -> Iterator[list[Tensor]]:
        """See `Tap`."""
        seen: list[Tensor] = []
        recorder = CallRecorder()
        with recorder:
            yield seen
        seen.extend(recorder.outputs[self.index : self.index + 1])


def run_tapped(
    module: torch.nn.Module, taps: Sequence[Tap], images: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Run a classifier.

    Args:
        module: The classifier.
        taps: The layers wanted.
        images: Normalised images [B, channels, H, W].

    Returns:
        logits [B, classes] and the tensor of each layer.
    """
    with plain_attention(), ExitStack() as stack:
        seen = [stack.enter_context(tap.attached(module)) for tap in taps]
        logits = logits_of(module(images))
    for tap, tensors in zip(taps, seen, strict=True):
        if not tensors:
            raise ExportError(f"layer {tap.name!r} was not run on the way to the logits")
    return logits, [tensors[-1] for tensors in seen]


def check_path(module: torch.nn.Module, path: str, *, what: str = "layer") -> None:
    """Raise ExportError, with near names, if a module has no sub-module of this path."""
    names = [name for name, _ in module.named_modules() if name]
    if path not in names:
        near = difflib.get_close_matches(path, names, n=3) or names[-3:]
        raise ExportError(f"the module has no {what} {path!r}: did you mean one of {near}?")


def logits_of(output: Any) -> Tensor:
    """Return the logits [B, classes] in the output of a classifier."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = f" of shape {list(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise ExportError(
            f"the module returns {type(logits).__name__}{shape}, expected logits [batch, classes]"
        )
    return logits


@contextmanager
def plain_attention() -> Iterator[None]:
    """Make attention compute in the same steps whether or not gradients are wanted."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class CallRecorder(TorchFunctionMode):
    """Records every floating-point tensor of rank 3 or 4 that a torch function returns."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function and keep what it returns."""
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.ndim in (3, 4) and output.is_floating_point():
            self.outputs.append(output)
        return output


class Replacing(TorchFunctionMode):
    """Calls another function wherever a module calls one of torch's."""

    def __init__(self, function: Callable[..., Any], replacement: Callable[..., Any]) -> None:
        super().__init__()
        self._function, self._replacement = function, replacement

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, or its replacement."""
        wanted = self._replacement if func is self._function else func
        return wanted(*args, **(kwargs or {}))


def traceable_pools() -> Replacing:
    """Write adaptive average pools as two matrix products, which exist for images of any size.

    Cell i of n pools pixels floor(i size / n) to ceil((i + 1) size / n); the tracer has no form of
    that for a size it does not know.
    """
    return Replacing(functional.adaptive_avg_pool2d, _adaptive_average)


def _adaptive_average(input: Tensor, output_size: Any) -> Tensor:  # noqa: A002 (torch's name)
    sizes = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if sizes == (1, 1) or None in sizes:
        return functional.adaptive_avg_pool2d(input, output_size)
    rows, columns = (
        _pooling_matrix(input.shape[axis], size).to(input.dtype)
        for axis, size in zip((2, 3), sizes, strict=True)
    )
    return rows @ input @ columns.T


def _pooling_matrix(pixels: int, cells: int) -> Tensor:
    """Return the share of each pixel in each cell [cells, pixels]."""
    cell = torch.arange(cells).unsqueeze(1)
    pixel = torch.arange(pixels).unsqueeze(0)
    first = cell * pixels // cells
    end = ((cell + 1) * pixels + cells - 1) // cells
    inside = ((pixel >= first) & (pixel < end)).float()
    return inside / inside.sum(dim=1, keepdim=True)
