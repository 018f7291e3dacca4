"""Compiles a CUDA source for the CPU, with the stand-ins of tests/helpers/shim for CUDA's headers.

Environment: KLIEG_SHIM_SANITIZE=address or thread compiles with that sanitizer, whose library must
then be preloaded.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from klieg.storage.atomic import atomic_path

SHIM = Path(__file__).parent / "shim"
KERNELS = Path(__file__).parents[2] / "kernels" / "cuda"
BUILT = Path(__file__).parents[2] / "build" / "shim"

# The host's own instructions give fmaf() its instruction; contraction stays the author's choice.
# Every library has a state of its own, so that nothing but what is called from here is visible.
FLAGS = (
    "-std=c++17",
    "-march=native",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-Wall",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
)
SANITIZERS = {
    "": ("-O2",),
    "address": ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-O1", "-g", "-fsanitize=thread"),
}

EXPORTED = 'extern "C" __attribute__((visibility("default")))'
ENTRY = re.compile(r"__global__\s+void\s+(\w+)\s*\(|void\s+__global__\s+(\w+)\s*\(")
SHARED = re.compile(r"__shared__\s(?P<declaration>[^;]*);")
ATTRIBUTE = re.compile(r"__attribute__\(\(\w+\([^()]*\)\)\)")
ARRAY = re.compile(r"(\w+)\s*((?:\[[^\]]*\]\s*)*)(?:,|$)")
DECLARATION = re.compile(
    r"(?P<type>.*?)\s*(?P<arrays>\b\w+\s*(?:\[[^\]]*\]\s*)*(?:,\s*\w+\s*(?:\[[^\]]*\]\s*)*)*)",
    re.DOTALL,
)
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s[^;]*\bklieg_shared\s*\[\s*\]\s*;")


def sanitizer() -> str:
    """Return the sanitizer asked for, empty for none."""
    return os.environ.get("KLIEG_SHIM_SANITIZE", "")


def entry_points(source: Path) -> list[str]:
    """Return the names of the kernels in a source, macros expanded."""
    return _entries(_preprocessed(source))


def build(source: Path) -> Path:
    """Return the shared library of a source; compile it if it changed.

    Raises:
        RuntimeError: the source does not compile.
    """
    flags = (*FLAGS, *SANITIZERS[sanitizer()])
    text = _host_text(_preprocessed(source))
    key = hashlib.sha256("\0".join([_version(), *flags, text]).encode()).hexdigest()
    library = BUILT / f"{source.stem}-{key[:24]}.so"
    if not library.exists():
        with atomic_path(library) as path:
            _compiler([*flags, "-x", "c++-cpp-output", "-", "-o", str(path)], source, text)
    return library


def _host_text(text: str) -> str:
    """Take CUDA's words out of a preprocessed source and add what the launcher calls."""
    entries = _entries(text)
    text = SHARED.sub(_shared_arrays, DYNAMIC_SHARED.sub("", text)).replace("__global__", "")
    has_barriers = str("klieg_shim::barrier(" in text).lower()
    calls = [
        f"{EXPORTED} const char* signature_{name}() {{ return klieg_shim::signature(&{name}); }}\n"
        f"{EXPORTED} const char* launch_{name}(const unsigned* grid, unsigned block,\n"
        "    size_t shared, void* const* arguments) {\n"
        f"  return klieg_shim::launch(&{name}, grid, block, shared, arguments);\n}}\n"
        for name in entries
    ]
    return f"{text}\nconst bool klieg_shim::has_barriers = {has_barriers};\n{''.join(calls)}"


def _shared_arrays(found: re.Match[str]) -> str:
    """Make `__shared__ T a[2], b[3];` names of memory that every block gets anew."""
    attributes = "".join(ATTRIBUTE.findall(found["declaration"]))
    parts = DECLARATION.fullmatch(ATTRIBUTE.sub("", found["declaration"]).strip())
    if parts is None:
        raise RuntimeError(f"the shim cannot read {found[0]!r}: name one type and its arrays")
    lines = []
    for name, sizes in ARRAY.findall(parts["arrays"]):
        held = f"{parts['type']} {attributes} {name}{sizes}"
        lines.append(
            f"struct klieg_shared_{name} {{ {held}; }}; "
            f"auto& [{name}] = klieg_shim::Shared<klieg_shared_{name}>::get();"
        )
    return " ".join(lines)


def _entries(text: str) -> list[str]:
    return [first or second for first, second in ENTRY.findall(text)]


@functools.cache
def _preprocessed(source: Path) -> str:
    """Expand everything but `__global__` and `__shared__`."""
    text = f'#include "cuda_shim.h"\n#include "{source}"\n#include "cuda_run.h"\n'
    flags = [flag for flag in SANITIZERS[sanitizer()] if flag.startswith("-fsanitize")]
    include = ["-I", str(SHIM), "-I", str(source.parent)]
    return _compiler([*FLAGS[:2], *flags, *include, "-E", "-x", "c++", "-"], source, text)


def _compiler(arguments: Sequence[str], source: Path, text: str) -> str:
    done = subprocess.run(["g++", *arguments], input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ refuses {source.name}:\n{done.stderr}")
    return done.stdout


@functools.cache
def _version() -> str:
    path = shutil.which("g++")
    if path is None:
        raise RuntimeError("g++ is not installed: it compiles the CUDA sources for the CPU")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    return done.stdout
