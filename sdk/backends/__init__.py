"""Inference engines behind one small protocol, chosen by name and never swapped silently."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from klieg.backends.protocol import Backend as Backend
from klieg.backends.protocol import DeviceBackend as DeviceBackend
from klieg.backends.protocol import Engine as Engine
from klieg.backends.protocol import is_device_backend as is_device_backend
from klieg.errors import OptionError
from klieg.extensions import extension, extension_names

BACKENDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "onnxruntime": "klieg.backends.onnxruntime:OnnxRuntime",
        "tensorrt": "klieg.backends.tensorrt:TensorRT",
    }
)
"""Engines by name, as module:class; installed packages add theirs, see `klieg.extensions`."""


def find_engine(name: str) -> Callable[..., Engine]:
    """Return the class of an engine by its name.

    Raises:
        OptionError: neither klieg nor an installed package has it.
    """
    if name in BACKENDS:
        module, attribute = BACKENDS[name].split(":")
        found: Callable[..., Engine] = getattr(importlib.import_module(module), attribute)
        return found
    added: Callable[..., Engine] | None = extension("klieg.backends", name)
    if added is None:
        known = sorted({*BACKENDS, *extension_names("klieg.backends")})
        raise OptionError(f"unknown backend {name!r}, expected one of {known}")
    return added


def named_engine(name: str, **options: Any) -> Engine:
    """Return an engine by its name, with its options.

    Raises:
        OptionError: there is no such engine, or it has no such option.
    """
    make = find_engine(name)
    possible = inspect.signature(make).parameters
    if unknown := [option for option in options if option not in possible]:
        raise OptionError(
            f"backend {name!r} has no option {unknown[0]!r}, it has {', '.join(possible)}: leave "
            "it out"
        )
    return make(**options)
