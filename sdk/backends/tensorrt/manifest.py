"""What stands beside an engine: what it was built from, for which GPU, and the plan's digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from klieg.backends.tensorrt.building import BUILD
from klieg.backends.tensorrt.profiles import EngineOptions
from klieg.errors import EngineError
from klieg.kernels.device import Device
from klieg.model_file.explainer_file import ExplainerFile

FORMAT: Final = 2


@dataclass(frozen=True)
class Platform:
    """What an engine is tied to."""

    gpu: str
    architecture: tuple[int, int]
    """Compute capability."""
    tensorrt: str

    @classmethod
    def of(cls, device: Device, tensorrt: str) -> Platform:
        """Describe a device together with a version of TensorRT."""
        return cls(device.name, device.architecture, tensorrt)

    def __str__(self) -> str:
        major, minor = self.architecture
        return f"{self.gpu} (compute capability {major}.{minor}) with TensorRT {self.tensorrt}"


@dataclass(frozen=True)
class Identity:
    """What makes one engine differ from another."""

    explainer_sha256: str
    outputs: tuple[str, ...]
    """In alphabetical order."""
    options: EngineOptions
    platform: Platform
    build: int = BUILD
    """How klieg built it."""

    @property
    def key(self) -> str:
        """A digest of all of it, short enough for a file name."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def mismatch(self, file: ExplainerFile, platform: Platform) -> str | None:
        """Say why this engine does not serve a file on a platform, None if it does."""
        if self.explainer_sha256 != file.sha256:
            return (
                f"it was built from an explainer with SHA-256 {self.explainer_sha256}, "
                f"{file.path} has {file.sha256}"
            )
        if self.platform != platform:
            return f"it was built for {self.platform}, this is {platform}"
        if self.build != BUILD:
            return (
                f"a version of klieg that builds differently has built it (BUILD {self.build}, "
                f"this one has {BUILD})"
            )
        return None


@dataclass(frozen=True)
class Manifest:
    """An entry of the cache."""

    identity: Identity
    plan_sha256: str
    plan_bytes: int
    versions: Mapping[str, str]
    """Of klieg and of what drives the GPU; for the reader, not compared."""

    def to_json(self) -> str:
        """Write it down."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: bytes, where: object) -> Manifest:
        """Read what `to_json` wrote.

        Raises:
            EngineError: it is something else.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise EngineError(
                    f"{where} has format {values['format']!r}, this version of klieg reads "
                    f"{FORMAT}: delete it and build again"
                )
            identity = values["identity"]
            options, platform = identity["options"], identity["platform"]
            major, minor = platform.pop("architecture")
            return cls(
                Identity(
                    identity["explainer_sha256"],
                    tuple(identity["outputs"]),
                    EngineOptions(tuple(options.pop("sizes")), **options),
                    Platform(architecture=(major, minor), **platform),
                    int(identity["build"]),
                ),
                values["plan_sha256"],
                int(values["plan_bytes"]),
                dict(values["versions"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(where, error) from error


def _damaged(where: object, error: Exception) -> EngineError:
    what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    return EngineError(f"{where} is no manifest of an engine: {what}; delete it and build again")
