"""ONNX Runtime's execution providers: what those for GPUs are told, and why one does not start."""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from klieg.errors import BackendError

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

OPTIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        # float32 in the file means float32, where CUDA would cut factors to 10 bits; and no
        # convolution is tuned anew for each of the many image sizes.
        CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
        # Engines are native code, and ONNX Runtime checks none that it finds in its cache. It is
        # said here since without any option the provider takes them from the environment.
        TENSORRT: {"trt_engine_cache_enable": "False", "trt_timing_cache_enable": "False"},
    }
)
"""What a provider is told wherever it is used."""

_LIBRARIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        CUDA: "libonnxruntime_providers_cuda.so",
        TENSORRT: "libonnxruntime_providers_tensorrt.so",
    }
)


def open_session(
    data: bytes, session_options: Any, options: Mapping[str, Mapping[str, str]], *, what: str
) -> Any:
    """Open a session in which every provider that was asked for has started.

    Args:
        data: An ONNX model.
        session_options: ONNX Runtime's SessionOptions.
        options: Of each provider, by its name, first choice first.
        what: Name of the model, for the error.

    Raises:
        BackendError: a provider does not start, or the model is refused.
    """
    import onnxruntime

    providers = list(options)
    _load_libraries(providers)
    try:
        session = onnxruntime.InferenceSession(
            data,
            session_options,
            providers=providers,
            provider_options=[dict(given) for given in options.values()],
            enable_fallback=0,  # it would print the error and use other providers
        )
    except Exception as error:
        if missing := _missing_library(providers):
            raise BackendError(missing) from error
        raise BackendError(
            f"ONNX Runtime cannot load {what} with {', '.join(providers)}: {_cause(error)}"
        ) from error
    # A provider whose library cannot be loaded is left out with no more than a line in the log.
    if left_out := [name for name in providers if name not in session.get_providers()]:
        raise BackendError(
            _missing_library(left_out)
            or f"ONNX Runtime could not start {left_out[0]} and would use "
            f"{', '.join(session.get_providers())}: check the driver with `klieg doctor`, or ask "
            "for what it would use"
        )
    return session


def _load_libraries(providers: Sequence[str]) -> None:
    """Load what providers need from pip's packages, where the linker does not look for it.

    What is missing even so shows when the provider starts.
    """
    if not _LIBRARIES.keys() & set(providers):
        return
    import onnxruntime

    if preload := getattr(onnxruntime, "preload_dlls", None):  # there is none before 1.21
        preload()
    if TENSORRT in providers:
        with suppress(ImportError):
            importlib.import_module("tensorrt")


def _missing_library(providers: Iterable[str]) -> str | None:
    """Say which provider lacks which library and how to get it, None if none lacks any."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    for name in providers:
        if name not in _LIBRARIES or not (folder / _LIBRARIES[name]).is_file():
            continue
        try:  # as ONNX Runtime has just done, whose own message is in the log only
            ctypes.CDLL(str(folder / _LIBRARIES[name]))
        except OSError as error:
            return f"ONNX Runtime cannot start {name}: {error}; {_remedy(str(error))}"
    return None


def _cause(error: Exception) -> str:
    """Return what ONNX Runtime says, in one line, of a failure of CUDA without C++'s own terms."""
    if found := re.search(r"CUDA failure \d+: [^;]*[^; ]", str(error)):
        return f"{found[0]}; check nvidia-smi and that the GPU is visible to this process"
    return " ".join(str(error).split())


def _remedy(missing: str) -> str:
    if "libcuda.so" in missing:
        return "there is no NVIDIA driver on this machine: install it, or use another provider"
    if found := re.search(r"lib(?:nvinfer|nvonnxparser)\w*\.so\.(\d+)", missing):
        return f"pip install 'tensorrt=={found[1]}.*'"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'"
