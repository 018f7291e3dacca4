"""ONNX Runtime: the engine for processors, and for GPUs through its providers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.backends.onnxruntime.providers import CPU, OPTIONS, open_session
from klieg.errors import BackendError, OptionError, UnsafeFileError
from klieg.kernels.device import CudaDevice
from klieg.model_file.explainer_file import ExplainerFile
from klieg.model_file.outputs import ALWAYS
from klieg.model_file.subgraph import subgraph

DEFAULT_PROVIDERS: Final = (CPU,)


class OnnxRuntimeBackend:
    """Inference sessions. Several threads may call `run` at the same time.

    A file with more outputs than logits, activation and gradient gets a session of its own for
    every set of outputs that is asked for, made when it first is: see `subgraph`.
    """

    def __init__(
        self, file: ExplainerFile, *, providers: Sequence[str] | None, threads: int | None
    ) -> None:
        """Open a session.

        Args:
            file: The explainer.
            providers: ONNX Runtime's execution providers, first choice first; None for the CPU.
            threads: Threads of one inference; None for all cores.

        Raises:
            OptionError: no provider is named.
            BackendError: ONNX Runtime is not installed, lacks a provider, cannot start it, or
                refuses the file.
            UnsafeFileError: the file holds a compiled engine.
        """
        ort = _import()
        wanted = list(DEFAULT_PROVIDERS if providers is None else providers)
        if not wanted:
            raise OptionError("providers are empty, expected one at least, or None for the CPU")
        missing = [name for name in wanted if name not in ort.get_available_providers()]
        if missing:
            raise BackendError(
                f"this build of ONNX Runtime has no {missing}, it offers "
                f"{ort.get_available_providers()}; for CUDA: pip install 'klieg[gpu]'"
            )
        _check(file, wanted)
        self._path, self._threads = file.path, threads
        self._settings = {name: self._provider_settings(name) for name in wanted}
        self._lock, self._closed = threading.Lock(), False
        self._sessions: dict[frozenset[str], Any] = {}
        # With no other outputs one session serves all, and the file's bytes can be freed.
        self._data = file.data if file.outputs > ALWAYS else None
        data = file.data if self._data is None else subgraph(file.data, ALWAYS)
        self._sessions[ALWAYS] = self._open(data)
        self._versions = {"onnxruntime": ort.__version__, "provider": wanted[0]}

    def _open(self, data: bytes) -> Any:
        options = session_options(self._threads)
        session = open_session(data, options, self._settings, what=str(self._path))
        # The session keeps the file's bytes in case it has to start over with other providers,
        # which is never asked of it here: free a copy of all weights.
        session._model_bytes = None
        return session

    def _provider_settings(self, name: str) -> Mapping[str, str]:
        """Return the options of a provider."""
        return OPTIONS.get(name, {})

    def _session(self, outputs: Sequence[str]) -> Any:
        if self._data is None:
            return self._sessions[ALWAYS]
        wanted = frozenset(outputs)
        with self._lock:
            if wanted not in self._sessions:
                self._sessions[wanted] = self._open(subgraph(self._data, wanted))
            return self._sessions[wanted]

    @property
    def device(self) -> CudaDevice | None:
        """See `Backend`."""
        return None

    @property
    def versions(self) -> Mapping[str, str]:
        """See `Backend`."""
        return self._versions

    def run(
        self, images: NDArray[np.float32], targets: NDArray[np.int64], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """See `Backend`."""
        if self._closed:
            raise BackendError("the explainer is closed: open it again")
        session = self._session(outputs)
        try:
            feeds = {"image": images, "target": targets}
            return list(session.run(list(outputs), feeds))
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed on images of shape {list(images.shape)}: {error}"
            ) from error

    def close(self) -> None:
        """See `Backend`."""
        self._closed = True
        self._sessions.clear()
        self._data = None


def session_options(threads: int | None) -> Any:
    """Return the options of a session for images of changing sizes.

    Args:
        threads: Threads of one inference; None for all cores.
    """
    options = _import().SessionOptions()
    options.log_severity_level = 3  # errors reach the caller as exceptions
    options.enable_mem_pattern = False  # plans memory for one image size, ours change
    # Threads that still wait spinning take the cores from what klieg computes in between.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _check(file: ExplainerFile, providers: Sequence[str]) -> None:
    """Refuse what the providers cannot compute, or would run unchecked."""
    if list(providers) == [CPU]:
        if file.info.precision == "bfloat16":
            raise BackendError(
                f"{file.path} computes in bfloat16, which ONNX Runtime cannot on a processor: run "
                "it with TensorRT on a GPU (see `klieg build`), or export the model with "
                "--precision float32 or float16"
            )
    elif b"EPContext" in file.data:  # the operator that holds what a provider has compiled
        raise UnsafeFileError(
            f"{file.path} holds a compiled engine (EPContext), which is native code: export the "
            "model again with `klieg export`"
        )


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "ONNX Runtime is not installed: pip install 'klieg[cpu]' (or 'klieg[gpu]')"
        ) from error
    return onnxruntime
