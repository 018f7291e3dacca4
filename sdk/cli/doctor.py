"""klieg doctor: what is installed here and what works."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Final

import click

PACKAGES: Final = {
    "numpy": "base",
    "opencv-python-headless": "base",
    "click": "base",
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "gpu",
    "onnx": "export",
    "onnx-ir": "export",
    "torch": "export",
    "torchvision": "demo",
    "cuda-core": "cuda",
    "pycuda": "pycuda",
    "tensorrt": "tensorrt",
}
IDENTITY_MODEL: Final = bytes.fromhex(  # y = x, one float: the smallest thing an engine can load
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a001012"
)


@click.command(short_help="Show what is installed and which engines work.")
def doctor() -> None:
    """Show what is installed, which engines work, and whether CUDA and TensorRT are there."""
    click.echo(
        f"klieg {importlib.metadata.version('klieg')}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}\n"
    )
    for package, extra in PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "-"
        click.echo(f"  {package:<24} {version:<14} {extra}")
    click.echo()
    for name, works in {**_providers(), **_tensorrt(), **_gpus()}.items():
        click.echo(f"  {'ok' if works else '--'}  {name}")


def _providers() -> dict[str, bool]:
    """Try every execution provider that ONNX Runtime offers on a minimal model."""
    try:
        import onnxruntime
    except ImportError:
        return {"ONNX Runtime (pip install 'klieg[cpu]')": False}
    from klieg.backends.onnxruntime.providers import OPTIONS, open_session
    from klieg.errors import BackendError

    onnxruntime.set_default_logger_severity(4)  # a provider that fails is a finding here
    options = onnxruntime.SessionOptions()
    found = _twice_installed()
    for provider in onnxruntime.get_available_providers():
        told = {provider: OPTIONS.get(provider, {})}
        try:
            open_session(IDENTITY_MODEL, options, told, what="a model of one node")
            found[f"ONNX Runtime {provider}"] = True
        except BackendError as error:
            found[str(error)] = False
    return found


def _twice_installed() -> dict[str, bool]:
    """Look for two packages of ONNX Runtime, whose files lie in the same places."""
    packages = {one.name for one in importlib.metadata.distributions()}
    if not {"onnxruntime", "onnxruntime-gpu"} <= packages:
        return {}
    return {
        "onnxruntime and onnxruntime-gpu have overwritten each other: pip uninstall both, then pip "
        "install the one that is wanted": False
    }


def _tensorrt() -> dict[str, bool]:
    """Try to import TensorRT with its libraries."""
    from klieg.backends.tensorrt.bindings import open_tensorrt
    from klieg.errors import BackendError

    try:
        return {f"TensorRT {open_tensorrt().version}": True}
    except BackendError as error:
        return {f"TensorRT: {error}": False}


def _gpus() -> dict[str, bool]:
    """Describe the driver and every GPU that it finds."""
    from klieg.kernels.device.inventory import take_inventory
    from klieg.kernels.device.opening import OLDEST_CUDA, OLDEST_DRIVER

    found = take_inventory()
    if found.cuda is None:
        return {f"CUDA driver: {found.reason}": False}
    number = f" {found.driver}" if found.driver else ""
    line = f"CUDA driver{number}, for CUDA {found.cuda[0]}.{found.cuda[1]}"
    if found.cuda < OLDEST_CUDA:
        return {f"{line}: klieg needs driver {OLDEST_DRIVER}": False}
    if found.reason is not None:
        return {line: True, found.reason: False}
    return {line: True} | {
        f"GPU {gpu.index} {gpu.name}, compute capability {gpu.architecture[0]}."
        f"{gpu.architecture[1]}, {gpu.memory / 2**30:.0f} GiB": True
        for gpu in found.gpus
    }
