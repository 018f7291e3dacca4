"""Compiles the kernels where they run, with NVRTC, and keeps the result in the user's cache.

Environment: XDG_CACHE_HOME is the folder of caches, ~/.cache if it is not set.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Final

from klieg.errors import DeviceError
from klieg.kernels.cuda.sources import FOLDER, HEADERS, source_texts, translation_unit
from klieg.storage.atomic import atomic_path

DIGEST: Final = hashlib.sha256().digest_size
"""Bytes at the start of a cached file: the SHA-256 of what follows."""


def compiled(architecture: tuple[int, int]) -> bytes:
    """Return a cubin with all kernels, from the cache if these sources were compiled before.

    Args:
        architecture: Compute capability of the device, such as (9, 0).

    Raises:
        DeviceError: NVRTC or CUDA's headers are not installed, the sources do not compile, or the
            cache cannot be written.
    """
    nvrtc = _nvrtc()
    options = ["-std=c++17", f"--gpu-architecture=sm_{architecture[0]}{architecture[1]}"]
    major, minor = _checked(nvrtc, nvrtc.nvrtcVersion())
    path = cache_path(f"NVRTC {major}.{minor}", options)
    cubin = _read(path)
    if cubin is None:
        cubin = _compile(nvrtc, [*options, f"-I{FOLDER}", f"-I{header_folder()}"])
        _write(path, cubin)
    return cubin


def cache_path(compiler: str, options: list[str]) -> Path:
    """Return where the cubin of the present sources is kept, whether it is there or not."""
    parts = [compiler, *options, translation_unit()]
    for name, text in source_texts().items():
        parts += [name, text]
    key = hashlib.sha256()
    for part in parts:
        data = part.encode()
        key.update(len(data).to_bytes(8, "little") + data)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "klieg" / "kernels" / f"{key.hexdigest()}.cubin"


def header_folder() -> Path:
    """Return the first folder that holds all of CUDA's headers that the kernels include.

    Raises:
        DeviceError: there is none.
    """
    from cuda.pathfinder import find_nvidia_header_directory

    needed = [*HEADERS, "crt/mma.h"]  # mma.h lies in another package than what it includes
    for library in ("nvcc", "cudart"):
        found = find_nvidia_header_directory(library)
        if found is not None and all((Path(found) / name).is_file() for name in needed):
            return Path(found)
    raise DeviceError(
        f"no folder with CUDA's headers {', '.join(needed)}, which compiling the kernels needs: "
        "install the packages nvidia-cuda-runtime and nvidia-cuda-crt, or the CUDA toolkit "
        "with CUDA_HOME set to it"
    )


def _read(path: Path) -> bytes | None:
    """Return the cubin of a cached file; None if there is none or it was damaged."""
    if not path.exists():
        return None
    data = path.read_bytes()
    digest, cubin = data[:DIGEST], data[DIGEST:]
    return cubin if hashlib.sha256(cubin).digest() == digest else None


def _write(path: Path, cubin: bytes) -> None:
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(hashlib.sha256(cubin).digest() + cubin)
    except OSError as error:
        raise DeviceError(
            f"the compiled kernels cannot be kept in {path.parent} ({error}): set XDG_CACHE_HOME "
            "to a folder that can be written to"
        ) from error


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError as error:
        raise DeviceError(
            f"the kernels must be compiled here, and cuda-bindings is missing ({error}): "
            "install klieg[cuda], or build the kernels in advance with `make kernels`"
        ) from error
    try:
        load_nvidia_dynamic_lib("nvrtc")
    except DynamicLibNotFoundError as error:
        raise DeviceError(
            "the kernels must be compiled here, and NVRTC is missing: install the package "
            "nvidia-cuda-nvrtc, or the CUDA toolkit with CUDA_HOME set to it"
        ) from error
    return nvrtc


def _compile(nvrtc: Any, options: list[str]) -> bytes:
    source = translation_unit().encode()
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(source, b"klieg.cu", 0, [], []))
    try:
        given = [option.encode() for option in options]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(given), given)
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(_checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program)))
            _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
            raise DeviceError(
                f"NVRTC cannot compile the kernels with {' '.join(options)} ({result.name}); "
                f"headers and NVRTC must be of one CUDA version:\n{log.rstrip(bytes(1)).decode()}"
            )
        cubin = bytearray(_checked(nvrtc, nvrtc.nvrtcGetCUBINSize(program)))
        _checked(nvrtc, nvrtc.nvrtcGetCUBIN(program, cubin))
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _checked(nvrtc: Any, answer: tuple[Any, ...]) -> Any:
    """Return what a call of NVRTC returns after its result code."""
    result, *values = answer
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise DeviceError(f"NVRTC failed with {result.name}")
    return values[0] if len(values) == 1 else values
