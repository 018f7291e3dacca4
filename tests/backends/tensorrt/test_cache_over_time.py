"""Other versions of klieg, and builds that go on, in one folder of engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import klieg.backends.tensorrt.cache as module
import klieg.backends.tensorrt.manifest as manifest
from fake_gpu import FakeGpu
from klieg.backends.tensorrt.building import BUILD
from klieg.backends.tensorrt.cache import EngineCache, Entry
from klieg.backends.tensorrt.manifest import Identity, Platform
from klieg.errors import EngineError
from klieg.model_file.explainer_file import ExplainerFile

Put = Callable[..., Entry]
HERE = Platform("NVIDIA Test", (9, 0), "10.16.1.11")


def with_build(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Be a version of klieg that builds differently."""
    monkeypatch.setattr(manifest, "BUILD", number)
    monkeypatch.setattr(Identity.__init__, "__defaults__", (number,))


def test_built_in_another_way(
    put: Put, cache: EngineCache, file: ExplainerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = put(32)
    with_build(monkeypatch, BUILD + 1)
    assert cache.entries(file) == [entry]
    put(32)
    assert len(cache.entries(file)) == 2
    with pytest.raises(EngineError, match=rf"builds differently .*BUILD {BUILD}, .*{BUILD + 1}\)"):
        cache.load(entry, file, HERE)


def test_engines_of_klieg_before_this_format(
    put: Put, cache: EngineCache, file: ExplainerFile
) -> None:
    entry = put(32)
    values = json.loads(entry.plan.with_suffix(".json").read_text())
    values["format"] = 1
    del values["identity"]["build"]
    (cache.folder / "small-0123456789abcdef.json").write_text(json.dumps(values))
    assert cache.entries(file) == [entry]


def test_a_manifest_that_vanishes_while_the_folder_is_read(
    put: Put, cache: EngineCache, file: ExplainerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = put(32), put(46)
    read = module._read

    def remove_before(path: Path) -> bytes:
        gone.plan.with_suffix(".json").unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(module, "_read", remove_before)
    assert cache.entries(file) == [kept]


def test_an_engine_that_is_built_again_after_it_was_listed(
    put: Put, cache: EngineCache, file: ExplainerFile, gpu: FakeGpu
) -> None:
    listed = put(32)
    for plan in (b"another", b"rebuilt"):  # of other lengths and of the same
        again = cache.store(file, listed.identity, plan, gpu.versions)
        assert cache.load(listed, file, HERE) == plan
        listed = again
    listed.plan.write_bytes(b"altered")
    with pytest.raises(EngineError, match="not what was built"):
        cache.load(listed, file, HERE)


def test_cut_short(
    put: Put, cache: EngineCache, file: ExplainerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(32)
    write = module._write

    def fail_at_manifest(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(module, "_write", fail_at_manifest)
    with pytest.raises(EngineError, match=r"cannot write .*No space left.*--engines"):
        put(32)
    assert cache.entries(file) == []  # neither the new one nor an old manifest beside a new plan


def test_unfinished_files_are_not_seen(put: Put, cache: EngineCache, file: ExplainerFile) -> None:
    put(32)
    (cache.folder / f".small-{file.sha256[:12]}-half.json").write_text('{"format"')
    assert len(cache.entries(file)) == 1
