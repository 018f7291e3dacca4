"""The last step of an export: a checked graph and its metadata become one file."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import onnx

from klieg.errors import ExportError
from klieg.export.derived_weights import NOTE
from klieg.model_file.explainer_file import ExplainerInfo
from klieg.storage.atomic import atomic_path


def write_explainer(proto: onnx.ModelProto, info: ExplainerInfo, output: Path) -> None:
    """Write an explainer file.

    Args:
        proto: An instrumented classifier; it gets the metadata.
        info: What the file says about itself.
        output: Replaced only by a complete file.

    Raises:
        ExportError: the graph is no valid model, or too large for one file.
    """
    notes = {entry.key: entry.value for entry in proto.metadata_props if entry.key == NOTE}
    onnx.helper.set_model_props(proto, info.to_properties() | notes)
    proto.producer_name, proto.producer_version = "klieg", info.versions["klieg"]
    try:
        onnx.checker.check_model(proto, full_check=True)
        data = proto.SerializeToString(deterministic=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"the explainer is not a valid single-file model: {error}") from error
    with atomic_path(output) as temporary:
        temporary.write_bytes(data)


def versions() -> dict[str, str]:
    """Return the versions of the packages that write the file."""
    packages = ("klieg", "onnx", "onnx-ir", "torch", "numpy")
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # torch is not needed for a bare ONNX model
    return found
