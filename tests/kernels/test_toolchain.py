"""nvcc and NVRTC take the kernels as they are, within what each architecture has."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.cpu_build import entry_points
from helpers.cpu_device import CpuDevice
from klieg.errors import DeviceError
from klieg.kernels.cuda import kernels, run_time, sources
from klieg.kernels.cuda.fatbin import ARCHITECTURES, KernelUsage, compile_report, usage
from klieg.kernels.cuda.run_time import cache_path, compiled, header_folder
from klieg.kernels.cuda.sources import FOLDER, fatbin_path, source_texts

REGISTERS = {
    "klieg_contract_constant": 72,
    "klieg_contract_finish": 48,
    "klieg_contract_f": 128,  # more, and one block less would run at once
    "klieg_gate": 40,
    "klieg_normalize": 40,
    "klieg_pack": 64,
    "klieg_pyramid": 72,
}
"""Per thread at most, by the start of the name: the most that was measured and about a tenth."""
ON_TURING = {"klieg_contract_f": 160}
"""There, where memory allows one block at once."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of kernels compiled at run time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        run_time._nvrtc()
        header_folder()
    except DeviceError as error:
        pytest.skip(str(error))
    return tmp_path / "klieg" / "kernels"


@pytest.fixture(scope="module")
def names() -> set[str]:
    """The entry points of all sources, as the preprocessor of g++ leaves them."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    return {name for path in FOLDER.glob("*.cu") for name in entry_points(path)}


def budget(row: KernelUsage) -> int:
    """Return the registers that a kernel may have."""
    budgets = REGISTERS | (ON_TURING if row.architecture == 75 else {})
    return next(most for start, most in budgets.items() if row.kernel.startswith(start))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_every_kernel_fits_every_architecture(names: set[str], tmp_path: Path) -> None:
    path = tmp_path / "klieg.fatbin"
    rows = compile_report(path)
    assert path.stat().st_size > 10_000
    assert {(row.kernel, row.architecture) for row in rows} == {
        (name, architecture) for name in names for architecture in ARCHITECTURES
    }
    assert [row for row in rows if row.spills] == []
    assert [row for row in rows if row.registers > budget(row)] == []


def test_a_report_is_read() -> None:
    entry = (
        "ptxas info    : Compiling entry function 'k' for 'sm_90'\n"
        "ptxas info    : Function properties for k\n"
        "    8 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, "
        "2048 bytes smem\n"
    )
    (row,) = usage(entry)
    assert row == KernelUsage("k", 90, registers=40, shared=2048, stack=8, spills=40)
    with pytest.raises(DeviceError, match="form known here"):
        usage(entry.replace("Used 40", "Uses 40"))


def test_nvcc_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="install the CUDA toolkit"):
        compile_report(tmp_path / "klieg.fatbin")
    assert not list(tmp_path.iterdir())


def test_compiled_at_run_time_and_cached(
    names: set[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cubin = compiled((9, 0))
    assert cubin.startswith(b"\x7fELF")
    assert all(name.encode() in cubin for name in names)
    (path,) = cache.iterdir()

    # An altered file is not loaded but made again; the one that is there is.
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    made = []
    monkeypatch.setattr(run_time, "_compile", lambda *_: made.append(1) or cubin)
    assert compiled((9, 0)) == cubin
    assert made == [1]
    assert path.read_bytes() == whole
    assert compiled((9, 0)) == cubin
    assert made == [1]


def test_whatever_matters_names_the_cached_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache_path("NVRTC 13.0", ["a", "b"])
    assert path == cache_path("NVRTC 13.0", ["a", "b"])
    others = [cache_path("NVRTC 13.1", ["a", "b"]), cache_path("NVRTC 13.0", ["ab"])]
    texts = source_texts()
    texts["gate.cu"] += " "
    monkeypatch.setattr(run_time, "source_texts", lambda: texts)
    others.append(cache_path("NVRTC 13.0", ["a", "b"]))
    assert len({path, *others}) == 4


def test_what_does_not_compile(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_time, "translation_unit", lambda: "int f() { return nothing; }")
    with pytest.raises(DeviceError, match=r'identifier "nothing" is undefined'):
        compiled((9, 0))
    assert not cache.exists()


def test_unknown_architecture(cache: Path) -> None:
    with pytest.raises(DeviceError, match="sm_11"):
        compiled((1, 1))


def test_nvrtc_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pathfinder = pytest.importorskip("cuda.pathfinder")

    def missing(name: str) -> None:
        raise pathfinder.DynamicLibNotFoundError(name)

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    with pytest.raises(DeviceError, match="nvidia-cuda-nvrtc"):
        compiled((9, 0))


def test_headers_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pathfinder = pytest.importorskip("cuda.pathfinder")
    monkeypatch.setattr(pathfinder, "find_nvidia_header_directory", lambda _: str(tmp_path))
    with pytest.raises(DeviceError, match="nvidia-cuda-crt"):
        header_folder()


def test_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.parent.joinpath("klieg").write_text("a file where a folder should be")
    monkeypatch.setattr(run_time, "_compile", lambda *_: b"cubin")
    with pytest.raises(DeviceError, match="XDG_CACHE_HOME"):
        compiled((9, 0))


def test_a_fatbin_of_these_sources_comes_before_the_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernels, "fatbin_path", lambda: tmp_path / fatbin_path().name)
    monkeypatch.setattr(run_time, "compiled", lambda architecture: f"for {architecture}".encode())
    gpu: Any = SimpleNamespace(architecture=(9, 0), kernel_code=None)
    assert kernels.kernel_code(gpu) == b"for (9, 0)"
    (tmp_path / fatbin_path().name).write_bytes(b"a fatbin")
    assert kernels.kernel_code(gpu) == b"a fatbin"
    assert kernels.kernel_code(CpuDevice()) == CpuDevice.kernel_code
    texts = {**sources.source_texts(), "gate.cu": "something else"}
    monkeypatch.setattr(sources, "source_texts", lambda: texts)
    assert kernels.kernel_code(gpu) == b"for (9, 0)"


def test_sources_are_where_compilers_look() -> None:
    assert set(source_texts()) == {path.name for path in FOLDER.glob("*.cu*")}
