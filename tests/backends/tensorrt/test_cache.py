"""Engines on disk: found again, and refused if anything about them is not as it was."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import klieg.backends.tensorrt.cache as module
from fake_gpu import FakeGpu
from klieg.backends.tensorrt.backend import TensorRTBackend
from klieg.backends.tensorrt.cache import EngineCache, Entry, default_folder
from klieg.backends.tensorrt.manifest import Platform
from klieg.errors import EngineError
from klieg.model_file.explainer_file import ExplainerFile

Put = Callable[..., Entry]

HERE = Platform("NVIDIA Test", (9, 0), "10.16.1.11")


def test_what_was_stored_is_found(put: Put, cache: EngineCache, file: ExplainerFile) -> None:
    entry = put(32, 46, max_batch=3)
    (found,) = cache.entries(file)
    assert found == entry
    assert found.plan.name == f"small-{file.sha256[:12]}-{found.identity.key}.plan"
    assert cache.load(found, file, HERE) == found.plan.read_bytes()
    assert found.manifest.versions.keys() == {"klieg", "cuda driver"}
    for path in (cache.folder, *cache.folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".plan"]


def test_everything_counts_for_the_key(
    put: Put, cache: EngineCache, file: ExplainerFile, file_all: ExplainerFile
) -> None:
    put(32)
    put(32)  # takes the place of the first
    put(46)
    put(32, max_batch=2)
    put(32, workspace_bytes=1 << 30)
    put(32, outputs=("logits",))
    put(32, of=file_all)
    put(32, on=Platform("NVIDIA Other", (9, 0), "10.16.1.11"))
    put(32, on=Platform("NVIDIA Test", (9, 1), "10.16.1.11"))
    put(32, on=Platform("NVIDIA Test", (9, 0), "10.16.1.12"))
    assert len(cache.entries(file)) == 9


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        (Platform("NVIDIA Other", (9, 0), "10.16.1.11"), ["NVIDIA Test", "NVIDIA Other"]),
        (Platform("NVIDIA Test", (8, 7), "10.16.1.11"), ["capability 9.0", "capability 8.7"]),
        (Platform("NVIDIA Test", (9, 0), "11.4.0"), ["TensorRT 10.16.1.11", "TensorRT 11.4.0"]),
    ],
)
def test_of_another_platform(
    platform: Platform, names: list[str], put: Put, cache: EngineCache, file: ExplainerFile
) -> None:
    with pytest.raises(EngineError) as caught:
        cache.load(put(32), file, platform)
    assert all(name in str(caught.value) for name in names)


def test_of_another_explainer(
    put: Put, cache: EngineCache, file: ExplainerFile, file_all: ExplainerFile
) -> None:
    with pytest.raises(EngineError) as caught:
        cache.load(put(32), file_all, HERE)
    assert file.sha256 in str(caught.value)
    assert file_all.sha256 in str(caught.value)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def open_to_all(path: Path) -> None:
    path.chmod(0o666)


def pipe(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "not what was built: its SHA-256 differs"),
        (truncate, r"has \d+ bytes, its manifest says \d+"),
        (remove, "cannot read .*No such file"),
        (link, "it is a link"),
        (open_to_all, "can be written by others"),
        (pipe, "no regular file|Is a directory"),
    ],
)
def test_a_damaged_plan_never_reaches_tensorrt(
    damage: Any,
    message: str,
    put: Put,
    cache: EngineCache,
    file: ExplainerFile,
    gpu: FakeGpu,
    trt: Any,
) -> None:
    damage(put(32).plan)
    backend = TensorRTBackend(file, device=gpu, engines=cache.folder)
    with pytest.raises(EngineError, match=message):
        backend.run(np.zeros((1, 3, 32, 32), np.float32), np.zeros(1, np.int64), ["logits"])
    assert trt.plans == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "no manifest of an engine|its name does not belong"),
        (link, "it is a link"),
        (open_to_all, "can be written by others"),
    ],
)
def test_a_damaged_manifest(
    damage: Any,
    message: str,
    put: Put,
    cache: EngineCache,
    file: ExplainerFile,
    file_all: ExplainerFile,
) -> None:
    path = put(32).plan.with_suffix(".json")
    path.write_bytes(path.read_bytes().rstrip())
    damage(path)
    with pytest.raises(EngineError, match=message) as caught:
        cache.entries(file)
    assert str(path) in str(caught.value)
    other = put(32, of=file_all)  # of the same name
    assert cache.entries(file_all) == [other]


def change_gpu(values: Any) -> None:
    values["identity"]["platform"]["gpu"] = "NVIDIA Other"


def change_batch(values: Any) -> None:
    values["identity"]["options"]["max_batch"] = 64


def drop_outputs(values: Any) -> None:
    del values["identity"]["outputs"]


def empty_options(values: Any) -> None:
    values["identity"]["options"] = []


def strange_options(values: Any) -> None:
    values["identity"]["options"]["max_batch"] = "many"


def drop_build(values: Any) -> None:
    del values["identity"]["build"]


def old_format(values: Any) -> None:
    values["format"] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_gpu, "its name does not belong"),
        (change_batch, "its name does not belong"),
        (drop_outputs, "lacks 'outputs'"),
        (empty_options, "no manifest of an engine"),
        (strange_options, "no manifest of an engine.*max_batch is 'many'"),
        (drop_build, "lacks 'build'.*delete it"),
        (old_format, "format 1, this version of klieg reads 2: delete it"),
    ],
)
def test_an_altered_manifest(
    change: Any, message: str, put: Put, cache: EngineCache, file: ExplainerFile
) -> None:
    path = put(32).plan.with_suffix(".json")
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(EngineError, match=message):
        cache.entries(file)


def test_a_folder_that_others_can_write_to(
    put: Put, cache: EngineCache, file: ExplainerFile
) -> None:
    put(32)
    cache.folder.chmod(0o777)
    with pytest.raises(EngineError, match=r"can be written by others \(mode 777\)"):
        cache.entries(file)
    with pytest.raises(EngineError, match="can be written by others"):
        put(46)


def test_files_of_others(put: Put, cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    put(32)
    owner = cache.folder.stat().st_uid
    found = os.stat_result((0o100600, 0, 0, 0, owner + 1, 0, 0, 0, 0, 0))
    with pytest.raises(EngineError, match=f"belongs to user {owner + 1}, expected {owner}"):
        module._check_owner(cache.folder, found)
    roots = os.stat_result((0o100644, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    module._check_owner(cache.folder, roots)


def test_no_folder(tmp_path: Path, file: ExplainerFile) -> None:
    assert EngineCache(tmp_path / "none").entries(file) == []
    assert not (tmp_path / "none").exists()


def test_timing_cache(cache: EngineCache) -> None:
    assert cache.timing_cache(HERE) is None
    cache.store_timing_cache(HERE, b"seconds")
    assert cache.timing_cache(HERE) == b"seconds"
    assert cache.timing_cache(Platform("NVIDIA Other", (9, 0), "10.16.1.11")) is None
    (path,) = cache.folder.iterdir()
    flip(path)
    with pytest.raises(EngineError, match=r"timing cache .* is damaged"):
        cache.timing_cache(HERE)
    cache.store_timing_cache(HERE, b"")
    assert cache.timing_cache(HERE) == b""


def test_where_engines_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KLIEG_ENGINES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_folder() == tmp_path / ".cache/klieg/engines"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_folder() == tmp_path / "caches/klieg/engines"
    monkeypatch.setenv("KLIEG_ENGINES", str(tmp_path / "own"))
    assert default_folder() == tmp_path / "own"
    assert EngineCache().folder == tmp_path / "own"
