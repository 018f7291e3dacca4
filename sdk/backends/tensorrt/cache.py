"""The folder of engines: written whole, and nothing handed to TensorRT that was not checked.

A plan is native code to whoever loads it. Each has a manifest beside it, and its bytes are compared
with the digest there before TensorRT sees them. That finds damage and mix-ups; against someone who
can write to the folder it would be no help, so files that others can write are not read at all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from klieg.backends.tensorrt.manifest import Identity, Manifest, Platform
from klieg.errors import EngineError
from klieg.model_file.explainer_file import ExplainerFile
from klieg.storage.atomic import atomic_path


@dataclass(frozen=True)
class Entry:
    """An engine in the cache."""

    plan: Path
    manifest: Manifest

    @property
    def identity(self) -> Identity:
        """What it was built from and for."""
        return self.manifest.identity


class EngineCache:
    """A folder of engines of any number of explainers, GPUs and versions."""

    def __init__(self, folder: Path | None = None) -> None:
        """Choose the folder.

        Args:
            folder: None for $KLIEG_ENGINES, or else `klieg/engines` where the user's caches are.
        """
        self.folder = default_folder() if folder is None else folder

    def entries(self, file: ExplainerFile) -> list[Entry]:
        """Return the engines of an explainer, and those of others of its name, in order.

        Args:
            file: The explainer. What is damaged among the engines of others is left out.

        Raises:
            EngineError: a manifest of this explainer is damaged, or others can write to the folder.
        """
        if not self.folder.exists():
            return []
        self.check_folder()
        found = []
        for path in sorted(self.folder.glob("[!.]*.json")):
            own = f"-{_short(file.sha256)}-" in path.name
            if own or path.name.startswith(f"{_stem(file)}-"):
                try:
                    found.append(self._entry(path))
                except EngineError as error:
                    gone = isinstance(error.__cause__, FileNotFoundError)  # being built again
                    if own and not gone:
                        raise
        return found

    def find(self, identity: Identity) -> Entry | None:
        """Return the engine of an identity if it is there, as it was built.

        Raises:
            EngineError: it is there, but was altered or damaged, or others can write to it.
        """
        self.check_folder()
        for path in sorted(self.folder.glob(f"[!.]*-{_name(identity)}.json")):
            entry = self._entry(path)
            if difference := _difference(entry, _read(entry.plan)):
                raise EngineError(difference)
            return entry
        return None

    def load(self, entry: Entry, file: ExplainerFile, platform: Platform) -> bytes:
        """Return the plan of an engine, checked.

        Raises:
            EngineError: it is of another explainer, GPU or version, was altered, or is missing.
        """
        if reason := entry.identity.mismatch(file, platform):
            raise EngineError(f"{entry.plan} does not fit: {reason}")
        plan = _read(entry.plan)
        if _difference(entry, plan):  # it may have been built again since it was listed
            entry = self._entry(entry.plan.with_suffix(".json"))
            plan = _read(entry.plan)
            if difference := _difference(entry, plan):
                raise EngineError(difference)
        return plan

    def store(
        self, file: ExplainerFile, identity: Identity, plan: bytes, versions: Mapping[str, str]
    ) -> Entry:
        """Write an engine, in place of an earlier one of the same identity.

        Raises:
            EngineError: it cannot be written.
        """
        path = self.folder / f"{_stem(file)}-{_name(identity)}.plan"
        manifest = Manifest(
            identity,
            hashlib.sha256(plan).hexdigest(),
            len(plan),
            {"klieg": importlib.metadata.version("klieg"), **versions},
        )
        try:
            self._make_folder()
            # Whenever this is cut short, there is no manifest, and so no engine.
            path.with_suffix(".json").unlink(missing_ok=True)
            _write(path, plan)
            _write(path.with_suffix(".json"), manifest.to_json().encode())
        except OSError as error:
            raise _unwritable(path, error) from error
        return Entry(path, manifest)

    def timing_cache(self, platform: Platform) -> bytes | None:
        """Return what earlier builds have measured, None if there were none.

        Raises:
            EngineError: it was altered.
        """
        path = self._timing_path(platform)
        if not path.exists():
            return None
        self.check_folder()
        data = _read(path)
        digest, measured = data[:32], data[32:]
        if hashlib.sha256(measured).digest() != digest:
            raise EngineError(f"the timing cache {path} is damaged")
        return measured

    def store_timing_cache(self, platform: Platform, measured: bytes) -> None:
        """Write what the builds so far have measured.

        Raises:
            EngineError: it cannot be written.
        """
        path = self._timing_path(platform)
        try:
            self._make_folder()
            _write(path, hashlib.sha256(measured).digest() + measured)
        except OSError as error:
            raise _unwritable(path, error) from error

    def check_folder(self) -> None:
        """Look who can write to the folder; one that does not exist yet will do.

        Raises:
            EngineError: others can, or it cannot be read.
        """
        try:
            found = self.folder.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unreadable(self.folder, error) from error
        _check_owner(self.folder, found)

    def _timing_path(self, platform: Platform) -> Path:
        digest = hashlib.sha256(str(platform).encode()).hexdigest()[:16]
        return self.folder / f"timing-{digest}.cache"

    def _entry(self, path: Path) -> Entry:
        manifest = Manifest.from_json(_read(path), path)
        if not path.stem.endswith(f"-{_name(manifest.identity)}"):
            raise EngineError(
                f"{path} is not what was built: its name does not belong to its content; "
                "delete it and build again"
            )
        return Entry(path.with_suffix(".plan"), manifest)

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.check_folder()


def default_folder() -> Path:
    """Return where engines are kept if nothing else is said."""
    if chosen := os.environ.get("KLIEG_ENGINES"):
        return Path(chosen)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "klieg/engines"


def _stem(file: ExplainerFile) -> str:
    return file.path.stem.lstrip(".") or "explainer"  # a hidden file would not be found


def _name(identity: Identity) -> str:
    return f"{_short(identity.explainer_sha256)}-{identity.key}"


def _short(sha256: str) -> str:
    """Return what tells explainers apart in the names of files."""
    return sha256[:12]


def _difference(entry: Entry, plan: bytes) -> str | None:
    """Say how a plan differs from what its manifest describes, None if it does not."""
    expected, got = entry.manifest.plan_bytes, len(plan)
    if got != expected:
        return f"{entry.plan} has {got} bytes, its manifest says {expected}: build it again"
    if hashlib.sha256(plan).hexdigest() != entry.manifest.plan_sha256:
        return (
            f"{entry.plan} is not what was built: its SHA-256 differs from that in its "
            "manifest; find out who changed it, delete it and build it again"
        )
    return None


def _read(path: Path) -> bytes:
    """Read a file once: what is checked is what is used, whatever becomes of the file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise EngineError(f"{path} is no regular file: delete it and build again")
            _check_owner(path, found)
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from error


def _check_owner(path: Path, found: os.stat_result) -> None:
    # Root can replace this program itself; engines in a container image are often root's.
    if found.st_uid not in (os.geteuid(), 0):
        raise EngineError(
            f"{path} belongs to user {found.st_uid}, expected {os.geteuid()}: engines of others "
            "are not loaded, build your own"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):o}), who could "
            "run their code here: if they are trusted, `chmod go-w`, else build again elsewhere"
        )


def _write(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_bytes(data)


def _unreadable(path: Path, error: OSError) -> EngineError:
    reason = "it is a link, delete it" if path.is_symlink() else error.strerror or error
    return EngineError(f"cannot read {path}: {reason}; build the engine again with `klieg build`")


def _unwritable(path: Path, error: OSError) -> EngineError:
    return EngineError(
        f"cannot write {path}: {error.strerror or error}; choose another folder with --engines"
    )
