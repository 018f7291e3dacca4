"""`klieg build`, as a user types it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fake_gpu import FakeGpu
from fake_tensorrt import fake_tensorrt, names
from klieg.backends.tensorrt.building import BUILD
from klieg.backends.tensorrt.cache import EngineCache
from klieg.backends.tensorrt.manifest import Identity, Platform
from klieg.cli import main
from klieg.errors import DeviceError
from klieg.model_file.explainer_file import ALWAYS, ExplainerFile


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> list[str]:
    """Open the fake GPU instead of a real one; return which packages were asked for."""
    opening: Any = ModuleType("opening")
    packages: list[str] = []

    def open_device(name: str) -> FakeGpu:
        packages.append(name)
        return gpu

    opening.open_device = open_device
    monkeypatch.setitem(sys.modules, "klieg.kernels.device.opening", opening)
    return packages


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["build", *map(str, arguments)])


def test_the_default(
    small_explainer: Path,
    file: ExplainerFile,
    cache: EngineCache,
    trt: Any,
    asked: list[str],
    gpu: FakeGpu,
) -> None:
    result = run(small_explainer, "--engines", cache.folder)
    assert result.exit_code == 0, result.output
    (entry,) = cache.entries(file)
    assert entry.identity.outputs == tuple(sorted(ALWAYS))
    assert entry.identity.options.sizes == (32, 46, 61, 75, 89, 103, 118, 132)
    assert entry.identity.options.max_batch == 8
    assert entry.identity.options.workspace_bytes is None
    assert asked == ["cuda.core"]
    assert gpu.closed
    lines = result.output.splitlines()
    assert lines[:3] == [
        "GPU       NVIDIA Test, compute capability 9.0",
        "TensorRT  10.16.1.11",
        "building  activation, gradient, logits",
    ]
    assert lines[-3] == f"wrote     {entry.plan.name}"
    assert lines[-2].endswith(" s")
    assert lines[-1] == f"engines   1 in {cache.folder}"


@pytest.mark.parametrize("columns", [80, 50])
def test_a_narrow_terminal(
    columns: int,
    small_explainer: Path,
    cache: EngineCache,
    trt: Any,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run(small_explainer, "--engines", cache.folder).output.splitlines()
    assert max(map(len, lines[:-1])) <= columns
    assert max(map(len, lines[3:-3])) > columns - 10  # the width is used


def test_options(
    small_explainer_all: Path,
    file_all: ExplainerFile,
    cache: EngineCache,
    trt: Any,
    asked: list[str],
) -> None:
    result = run(
        small_explainer_all,
        "--engines",
        cache.folder,
        "--scales",
        "40,56",
        "--batch",
        2,
        "--targets",
        3,
        "--workspace",
        7,
        "--device",
        "pycuda",
        "--methods",
        "gradcam,cameras,saliency,smoothgrad",
    )
    assert result.exit_code == 0, result.output
    found = {entry.identity.outputs: entry.identity.options for entry in cache.entries(file_all)}
    assert {outputs: options.sizes for outputs, options in found.items()} == {
        ("activation", "gradient", "logits"): (40, 56),
        ("image_gradient", "logits"): (40,),
    }
    for options in found.values():
        assert (options.max_batch, options.targets_per_image) == (2, 3)
        assert options.workspace_bytes == 7 << 20
    assert asked == ["pycuda"]


def test_an_engine_that_is_there_is_left_alone(
    small_explainer: Path,
    file: ExplainerFile,
    cache: EngineCache,
    trt: Any,
    asked: list[str],
    gpu: FakeGpu,
    tmp_path: Path,
) -> None:
    assert run(small_explainer, "--engines", cache.folder).exit_code == 0
    (entry,) = cache.entries(file)
    times = {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    trt.calls.clear()
    renamed = tmp_path / "renamed.onnx"
    renamed.write_bytes(small_explainer.read_bytes())
    for explainer in (small_explainer, renamed):
        result = run(explainer, "--engines", cache.folder)
        assert result.exit_code == 0, result.output
        assert names(trt) == []
        lines = result.output.splitlines()
        assert lines[2] == "present   activation, gradient, logits"
        assert lines[-2:] == [f"          {entry.plan.name}", f"engines   1 in {cache.folder}"]
        assert result.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()} == times
    assert gpu.closed


@pytest.mark.parametrize("change", ["options", "outputs", "file", "GPU", "TensorRT", "build"])
def test_any_other_engine_is_built(
    change: str,
    small_explainer: Path,
    small_explainer_all: Path,
    cache: EngineCache,
    trt: Any,
    asked: list[str],
    gpu: FakeGpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def built(explainer: Path, *more: object) -> bool:
        trt.calls.clear()
        result = run(explainer, "--engines", cache.folder, *more)
        assert result.exit_code == 0, result.output
        return "build_serialized_network" in names(trt)

    explainer, more = small_explainer_all, ["--methods", "gradcam"]
    assert built(explainer, *more)
    assert not built(explainer, *more)
    if change == "options":
        more += ["--batch", 3]
    elif change == "outputs":
        more[1] = "saliency"
    elif change == "file":
        explainer = small_explainer
    elif change == "GPU":
        gpu.name = "NVIDIA Other"
    elif change == "TensorRT":
        other = fake_tensorrt("10.16.1.12")
        other.calls = trt.calls
        monkeypatch.setitem(sys.modules, "tensorrt", other)
    else:
        monkeypatch.setattr(Identity.__init__, "__defaults__", (BUILD + 1,))
    assert built(explainer, *more)
    assert not built(explainer, *more)


def flip(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)


def cut(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def lose(plan: Path) -> None:
    plan.unlink()


def write_for_all(plan: Path) -> None:
    plan.chmod(0o666)


def spoil_manifest(plan: Path) -> None:
    plan.with_suffix(".json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "its SHA-256 differs"),
        (cut, "its manifest says"),
        (lose, "No such file"),
        (write_for_all, "can be written by others"),
        (spoil_manifest, "no manifest of an engine"),
    ],
)
def test_a_damaged_engine_is_told_and_built_again(
    damage: Any,
    message: str,
    small_explainer: Path,
    file: ExplainerFile,
    cache: EngineCache,
    trt: Any,
    asked: list[str],
    gpu: FakeGpu,
) -> None:
    run(small_explainer, "--engines", cache.folder)
    (entry,) = cache.entries(file)
    damage(entry.plan)
    trt.calls.clear()
    result = run(small_explainer, "--engines", cache.folder)
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: the engine that is there is not used: ")
    assert message in result.stderr
    assert "build_serialized_network" in names(trt)
    assert f"wrote     {entry.plan.name}" in result.output
    (again,) = cache.entries(file)
    assert cache.load(again, file, Platform.of(gpu, trt.__version__))
    assert run(small_explainer, "--engines", cache.folder).stderr == ""


def test_a_folder_that_others_can_write_to_is_told_before_anything_is_built(
    small_explainer: Path, cache: EngineCache, trt: Any, asked: list[str]
) -> None:
    cache.folder.mkdir()
    cache.folder.chmod(0o777)
    result = run(small_explainer, "--engines", cache.folder)
    assert result.exit_code == 1
    assert "can be written by others (mode 777)" in result.stderr
    assert asked == []


def test_each_build_uses_what_the_last_one_measured(
    small_explainer: Path, cache: EngineCache, trt: Any, asked: list[str]
) -> None:
    for batch in (1, 2):
        assert run(small_explainer, "--engines", cache.folder, "--batch", batch).exit_code == 0
    used = [call[1] for call in trt.calls if call[0] == "create_timing_cache"]
    assert used == [b"", b"measured"]


def test_a_damaged_timing_cache_is_told_and_left_behind(
    small_explainer: Path, cache: EngineCache, trt: Any, asked: list[str]
) -> None:
    run(small_explainer, "--engines", cache.folder)
    (path,) = cache.folder.glob("timing-*")
    path.write_bytes(path.read_bytes() + b"!")
    trt.calls.clear()
    result = run(small_explainer, "--engines", cache.folder, "--batch", 1)
    assert result.exit_code == 0
    assert f"Warning: the timing cache {path} is damaged: everything is measured" in result.stderr
    assert ("create_timing_cache", b"") in trt.calls
    assert run(small_explainer, "--engines", cache.folder, "--batch", 2).stderr == ""


def test_a_timing_cache_that_tensorrt_refuses_is_told_and_left_behind(
    small_explainer: Path, cache: EngineCache, trt: Any, asked: list[str], gpu: FakeGpu
) -> None:
    cache.store_timing_cache(Platform.of(gpu, trt.__version__), b"other GPU")
    result = run(small_explainer, "--engines", cache.folder, "--batch", 1)
    assert result.exit_code == 0
    assert "Warning: TensorRT 10.16.1.11 refuses the timing cache" in result.stderr
    assert run(small_explainer, "--engines", cache.folder, "--batch", 2).stderr == ""
    used = [call[1] for call in trt.calls if call[0] == "create_timing_cache"]
    assert used == [b"other GPU", b"", b"measured"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "saliency"], "needs the output 'image_gradient', which"),
        (["--methods", "magic"], "unknown method 'magic'"),
        (["--methods", ","], "got no methods"),
        (["--scales", "64,32"], "expected ascending pixel sizes"),
    ],
)
def test_impossible_wishes(
    arguments: list[str], message: str, small_explainer: Path, trt: Any, asked: list[str]
) -> None:
    result = run(small_explainer, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert asked == []  # said before the GPU is opened
    assert names(trt) == []


def test_failures_are_one_line(
    small_explainer: Path,
    cache: EngineCache,
    trt: Any,
    asked: list[str],
    gpu: FakeGpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trt.faults.add("build_serialized_network")
    result = run(small_explainer, "--engines", cache.folder)
    assert result.exit_code == 1
    assert "build_serialized_network went wrong" in result.stderr
    assert gpu.closed
    assert not cache.folder.exists()

    def none_there(name: str) -> FakeGpu:
        raise DeviceError("no GPU: run `klieg doctor`")

    opening = sys.modules["klieg.kernels.device.opening"]
    monkeypatch.setattr(opening, "open_device", none_there)
    assert "Error: no GPU" in run(small_explainer, "--engines", cache.folder).stderr
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "klieg[tensorrt]" in run(small_explainer, "--engines", cache.folder).stderr


def test_help_fits_a_terminal() -> None:
    assert max(map(len, run("--help").output.splitlines())) <= 80
