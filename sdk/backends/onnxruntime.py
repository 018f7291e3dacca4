"""ONNX Runtime: the engine for processors, and for GPUs through its providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from klieg.errors import BackendError
from klieg.explainer_file import ExplainerFile

DEFAULT_PROVIDERS: Final = ("CPUExecutionProvider",)


class OnnxRuntimeBackend:
    """One inference session. Several threads may call `run` at the same time."""

    def __init__(
        self, file: ExplainerFile, *, providers: Sequence[str] | None, threads: int | None
    ) -> None:
        """Open a session.

        Args:
            file: The explainer.
            providers: ONNX Runtime's execution providers, first choice first; None for the CPU.
            threads: Threads of one inference; None for all cores.

        Raises:
            BackendError: ONNX Runtime is not installed, lacks a provider, or refuses the file.
        """
        ort = _import()
        wanted = list(DEFAULT_PROVIDERS if providers is None else providers)
        missing = [name for name in wanted if name not in ort.get_available_providers()]
        if missing:
            raise BackendError(
                f"this build of ONNX Runtime has no {missing}, it offers "
                f"{ort.get_available_providers()}; for CUDA: pip install 'klieg[gpu]'"
            )
        options = session_options(threads)
        try:
            self._session: Any = ort.InferenceSession(file.data, options, providers=wanted)
        except Exception as error:
            raise BackendError(f"ONNX Runtime cannot load {file.path}: {error}") from error
        # The session keeps the file's bytes in case it has to start over with other providers,
        # which is never asked of it here: free a copy of all weights.
        self._session._model_bytes = None
        active = self._session.get_providers()
        if active[0] != wanted[0]:
            raise BackendError(
                f"ONNX Runtime could not start {wanted[0]} and would use {active[0]}: "
                "check the driver with `klieg doctor`, or ask for that provider"
            )
        self._run_options = ort.RunOptions()
        self._run_options.only_execute_path_to_fetches = True  # the logits alone cost no gradient
        self._versions = {"onnxruntime": ort.__version__, "provider": active[0]}

    @property
    def versions(self) -> Mapping[str, str]:
        """See `Backend`."""
        return self._versions

    def run(
        self, images: NDArray[np.float32], targets: NDArray[np.int64], outputs: Sequence[str]
    ) -> list[NDArray[np.float32]]:
        """See `Backend`."""
        if self._session is None:
            raise BackendError("the explainer is closed: open it again")
        try:
            feeds = {"image": images, "target": targets}
            return list(self._session.run(list(outputs), feeds, self._run_options))
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed on images of shape {list(images.shape)}: {error}"
            ) from error

    def close(self) -> None:
        """See `Backend`."""
        self._session = None


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


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            "ONNX Runtime is not installed: pip install 'klieg[cpu]' (or 'klieg[gpu]')"
        ) from error
    return onnxruntime
