"""The CUDA sources of the package as one translation unit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
"""Where the sources lie; compilers need it among their include folders."""

HEADERS: Final = ("cuda_fp16.h", "cuda_pipeline.h", "mma.h")
"""What the sources may include of CUDA's own headers."""


def translation_unit() -> str:
    """Return C++ that includes every kernel, each source in a namespace of its own.

    Headers come first, outside of all namespaces; their guards make later includes empty. Entry
    points are extern "C", so that their names do not change.
    """
    headers = [f"#include <{name}>" for name in HEADERS]
    shared = [f'#include "{path.name}"' for path in sorted(FOLDER.glob("*.cuh"))]
    kernels = [
        f'namespace klieg_{path.stem} {{\n#include "{path.name}"\n}}'
        for path in sorted(FOLDER.glob("*.cu"))
    ]
    return "\n".join([*headers, *shared, *kernels, ""])


def source_texts() -> dict[str, str]:
    """Return the text of every source by file name."""
    paths = sorted([*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")])
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def fatbin_path() -> Path:
    """Return where `make kernels` leaves what it makes of just these sources."""
    digest = hashlib.sha256(repr(source_texts()).encode()).hexdigest()
    return FOLDER / f"klieg-{digest[:16]}.fatbin"
