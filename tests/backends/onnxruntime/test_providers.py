"""What ONNX Runtime's GPU providers are told, and what is said where one does not start.

The options were given to the real provider libraries of onnxruntime-gpu 1.31.1, which refuse what
they do not know; here the CPU provider runs under their names.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from helpers.cpu_device import CpuDevice
from klieg import Explainer, OnnxRuntime
from klieg.backends.onnxruntime import providers as onnxruntime_providers
from klieg.backends.onnxruntime.providers import CPU, CUDA, TENSORRT
from klieg.cli import main
from klieg.errors import BackendError, OptionError, UnsafeFileError
from klieg.model_file.explainer_file import ExplainerFile, read_explainer

Session = onnxruntime.InferenceSession


class Providers:
    """Sessions of the CPU provider that claim to run with others."""

    def __init__(self) -> None:
        self.opened: list[dict[str, dict[str, str]]] = []
        self.started: Sequence[str] = (TENSORRT, CUDA, CPU)
        self.failure: Exception | None = None

    def open(
        self,
        data: bytes,
        options: Any,
        *,
        providers: list[str],
        provider_options: list[dict[str, str]],
        enable_fallback: int,
    ) -> Any:
        assert enable_fallback == 0
        self.opened.append(dict(zip(providers, provider_options, strict=True)))
        if self.failure is not None and providers != [CPU]:
            raise self.failure
        session = Session(data, options, providers=[CPU])
        session.get_providers = lambda: [name for name in self.started if name in (*providers, CPU)]
        return session


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> Providers:
    """An ONNX Runtime with all three providers."""
    providers = Providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", providers.open)
    return providers


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that the libraries of the providers are in; it starts empty."""
    capi = tmp_path / "onnxruntime/capi"
    capi.mkdir(parents=True)
    monkeypatch.setattr(onnxruntime, "__file__", str(capi.parent / "__init__.py"))
    return capi


def make_library(path: Path, *, needs: str | None = None) -> None:
    """Compile a provider's library, with a need for another one that is gone."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make libraries with")
    command = ["cc", "-shared", "-fPIC", "-x", "c", "/dev/null", "-o"]
    if needs is None:
        subprocess.run([*command, path], check=True)
        return
    gone = path.with_name(needs)
    subprocess.run([*command, gone, f"-Wl,-soname,{needs}"], check=True)
    subprocess.run([*command, path, "-Wl,--no-as-needed", "-x", "none", gone], check=True)
    gone.unlink()


EXACT = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
NO_CACHE = {"trt_engine_cache_enable": "False", "trt_timing_cache_enable": "False"}


def test_what_providers_are_told(small_explainer: Path, ort: Providers) -> None:
    for providers in ([CPU], [CUDA], [TENSORRT], [TENSORRT, CUDA], [TENSORRT, CUDA, CPU]):
        Explainer(small_explainer, backend=OnnxRuntime(providers=providers)).close()
    told = {CPU: {}, CUDA: EXACT, TENSORRT: NO_CACHE}
    assert [list(one.items()) for one in ort.opened] == [
        [(name, told[name]) for name in providers]
        for providers in ([CPU], [CUDA], [TENSORRT], [TENSORRT, CUDA], [TENSORRT, CUDA, CPU])
    ]


def test_libraries_of_pip_are_loaded_first(
    small_explainer: Path, ort: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, int]] = []

    def importing(name: str) -> None:
        loaded.append((name, len(ort.opened)))
        raise ImportError("TensorRT may be installed without its Python package")

    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: loaded.append(("CUDA", len(ort.opened)))
    )
    monkeypatch.setattr(onnxruntime_providers.importlib, "import_module", importing)
    for providers in ([CPU], [CUDA], [TENSORRT]):
        Explainer(small_explainer, backend=OnnxRuntime(providers=providers)).close()
    assert loaded == [("CUDA", 1), ("CUDA", 2), ("tensorrt", 2)]


def test_with_a_device_they_share_its_stream(
    small_explainer: Path, ort: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = CpuDevice()
    monkeypatch.setattr(CpuDevice, "index", 1)
    monkeypatch.setattr(CpuDevice, "stream", 0x7F00_0000_1234)
    shared = {"device_id": "1", "user_compute_stream": str(0x7F00_0000_1234)}
    for providers in (None, [TENSORRT, CUDA, CPU]):
        Explainer(small_explainer, backend=OnnxRuntime(providers=providers, device=device)).close()
    assert ort.opened == [
        {CUDA: EXACT | shared},
        {TENSORRT: NO_CACHE | shared, CUDA: EXACT | shared, CPU: {}},
    ]


@pytest.mark.parametrize("providers", [[CUDA], [CUDA, CPU], [CPU, CUDA], [TENSORRT, CUDA]])
def test_a_provider_that_is_left_out_is_an_error(
    providers: list[str], small_explainer: Path, ort: Providers, libraries: Path
) -> None:
    make_library(libraries / "libonnxruntime_providers_cuda.so")
    ort.started = (TENSORRT, CPU)
    with pytest.raises(BackendError, match=f"could not start {CUDA} and would use .*klieg doctor"):
        Explainer(small_explainer, backend=OnnxRuntime(providers=providers))


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "left out"])
@pytest.mark.parametrize(
    ("provider", "library", "remedy"),
    [  # of versions that no machine has
        (CUDA, "libcublasLt.so.99", r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        (CUDA, "libcuda.so.99", "there is no NVIDIA driver on this machine: install it"),
        (TENSORRT, "libnvinfer.so.99", r"pip install 'tensorrt==99\.\*'"),
        (TENSORRT, "libnvonnxparser.so.98", r"pip install 'tensorrt==98\.\*'"),
        (TENSORRT, "libcudnn.so.99", r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
    ],
)
def test_a_library_that_is_missing(
    provider: str,
    library: str,
    remedy: str,
    raised: bool,
    small_explainer: Path,
    ort: Providers,
    libraries: Path,
) -> None:
    name = "cuda" if provider == CUDA else "tensorrt"
    make_library(libraries / f"libonnxruntime_providers_{name}.so", needs=library)
    ort.started = (CPU,)
    ort.failure = RuntimeError("Please install the libraries") if raised else None
    with pytest.raises(BackendError, match=f"cannot start {provider}: {library}: .*; {remedy}"):
        Explainer(small_explainer, backend=OnnxRuntime(providers=[provider]))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert f"--  ONNX Runtime cannot start {provider}: {library}: " in result.output
    assert f"ok  ONNX Runtime {CPU}" in result.output


def test_a_failure_of_cuda_is_one_line(
    small_explainer: Path, ort: Providers, libraries: Path
) -> None:
    make_library(libraries / "libonnxruntime_providers_cuda.so")
    ort.failure = RuntimeError(
        "/src/cuda_call.cc:154 void CudaCall(...)\nCUDA failure 35: CUDA driver version is too "
        "old ; GPU=-1 ; hostname=here ; expr=cudaSetDevice(device_id_); \n"
    )
    with pytest.raises(BackendError) as caught:
        Explainer(small_explainer, backend=OnnxRuntime(providers=[CUDA]))
    assert str(caught.value) == (
        f"ONNX Runtime cannot load {small_explainer} with {CUDA}: CUDA failure 35: CUDA driver "
        "version is too old; check nvidia-smi and that the GPU is visible to this process"
    )
    ort.failure = RuntimeError("no kernel\nfor Conv")
    with pytest.raises(BackendError, match=f"with {CUDA}: no kernel for Conv$"):
        Explainer(small_explainer, backend=OnnxRuntime(providers=[CUDA]))


def test_compiled_engines_inside_a_file_are_refused(
    small_explainer: Path, ort: Providers, tmp_path: Path
) -> None:
    model = onnx.load(small_explainer)
    model.graph.node.append(
        onnx.helper.make_node("EPContext", [], ["engine"], domain="com.microsoft")
    )
    path = tmp_path / "engine.onnx"
    onnx.save(model, path)
    for providers in ([TENSORRT], [CPU, TENSORRT]):
        with pytest.raises(UnsafeFileError, match="holds a compiled engine"):
            Explainer(path, backend=OnnxRuntime(providers=providers))
    assert ort.opened == []


def test_no_providers(small_explainer: Path) -> None:
    with pytest.raises(OptionError, match="providers are empty"):
        Explainer(small_explainer, backend=OnnxRuntime(providers=[]))


@pytest.fixture
def bfloat16(small_explainer: Path) -> ExplainerFile:
    file = read_explainer(small_explainer)
    return replace(file, info=replace(file.info, precision="bfloat16"))


def test_bfloat16_needs_a_gpu(bfloat16: ExplainerFile, ort: Providers) -> None:
    for providers in (None, [CPU]):
        with pytest.raises(BackendError, match=r"bfloat16, which .*TensorRT.*--precision float32"):
            OnnxRuntime(providers=providers).opened(bfloat16).__enter__()
    assert ort.opened == []
    with OnnxRuntime(providers=[CUDA]).opened(bfloat16) as backend:
        images = np.zeros((1, 3, 32, 32), np.float32)
        backend.run(images, np.zeros(1, np.int64), ["logits"])


@pytest.mark.parametrize("gpu", ["onnxruntime-gpu", "onnx"])
def test_doctor_sees_packages_that_overwrite_each_other(
    gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [SimpleNamespace(name=name) for name in ("numpy", "onnxruntime", gpu)]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    output = CliRunner().invoke(main, ["doctor"]).output
    said = "--  onnxruntime and onnxruntime-gpu have overwritten each other: pip" in output
    assert said is (gpu == "onnxruntime-gpu")
