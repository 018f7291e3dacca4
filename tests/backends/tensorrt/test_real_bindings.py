"""What klieg uses of TensorRT exists in the real bindings of versions 10 and 11.

TensorRT's libraries need a GPU and are not installed here. Its Python bindings are, in folders of
their own, and they can be imported over empty libraries: see `make install`. The protocols of
`klieg.backends.tensorrt` list what is used, and the type checker holds the code to them.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

from fake_tensorrt import fake_tensorrt
from klieg.backends.tensorrt import bindings, interface

ROOT = Path(__file__).parents[3]
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
DESCRIBE = """
import json, tensorrt_bindings as trt
found = {"": {name: "" for name in dir(trt)}, "__version__": trt.__version__}
for name, value in vars(trt).items():
    if isinstance(value, type):
        found[name] = {member: getattr(value, member).__doc__ or "" for member in dir(value)}
print(json.dumps(found))
"""

Members = dict[str, str]
"""Documentation of the members of a class, which starts with their signatures."""


@pytest.fixture(scope="module", params=[10, 11], ids=["TensorRT 10", "TensorRT 11"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All classes of the real bindings with their members."""
    major = request.param
    folder = ROOT / f".venv/tensorrt-{major}"
    if not folder.is_dir():
        pytest.skip(f"the bindings of TensorRT {major} are not in {folder}: `make install`")
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make empty libraries with")
    empty = tmp_path_factory.mktemp("libraries")
    source = empty / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    for library in LIBRARIES:
        target = empty / f"lib{library}.so.{major}"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", target, source], check=True)
    where = {"LD_LIBRARY_PATH": str(empty), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE],
        env=os.environ | where,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["__version__"].split(".")[0] == str(major)
    return found


def protocols() -> dict[str, type]:
    """Return the protocols by the names of the classes that they describe."""
    return {
        name: value
        for name, value in vars(interface).items()
        if isinstance(value, type) and value.__module__ == interface.__name__
    }


def members(protocol: type) -> set[str]:
    """Return what a protocol declares."""
    names = set(vars(protocol)) | set(protocol.__annotations__)
    hidden = set(vars(Protocol)) | {"_is_protocol", "_is_runtime_protocol"}
    return {name for name in names - hidden if not name.startswith("_")}


def takes(documentation: str, name: str, arguments: list[str]) -> bool:
    """Return whether one of the signatures starts with these arguments and needs no more."""
    for signature in re.findall(rf"\b{name}\(self: [^,)]+(.*)\) ->", documentation):
        declared = re.findall(r", (\w+): [^,]*?( = .*?)?(?=, \w+: |$)", signature)
        given, rest = declared[: len(arguments)], declared[len(arguments) :]
        if [one for one, _ in given] == arguments and all(default for _, default in rest):
            return True
    return False


def test_everything_used_is_there(real: dict[str, Members]) -> None:
    checked = 0
    for name, protocol in protocols().items():
        assert name in real, f"no class {name}"
        for member in members(protocol):
            assert member in real[name], f"no {name}.{member}"
            checked += 1
    assert checked > 40


def test_arguments_are_those_of_the_real_methods(real: dict[str, Members]) -> None:
    checked = 0
    for name, protocol in protocols().items():
        for member in members(protocol):
            value = vars(protocol).get(member)
            if inspect.isfunction(value):
                arguments = list(inspect.signature(value).parameters)[1:]
                documentation = real[name][member]
                assert takes(documentation, member, arguments), (name, documentation)
                checked += 1
    assert checked > 20


def test_the_package_has_what_is_taken_from_it(real: dict[str, Members]) -> None:
    for name in set(bindings.Package.__annotations__):
        assert name in real[""], name
    for name, arguments in (
        ("Builder", ["logger"]),
        ("OnnxParser", ["network", "logger"]),
        ("Runtime", ["logger"]),
        ("ILogger", []),
    ):
        assert takes(real[name]["__init__"], "__init__", arguments), name
    assert takes(real["ILogger"]["log"], "log", ["severity", "msg"])


def test_every_protocol_is_reached_from_the_package() -> None:
    told = inspect.getsource(interface) + inspect.getsource(bindings)
    for name in protocols():
        assert len(re.findall(rf"\b{name}\b", told)) > 1, f"nothing uses {name}"


def test_every_member_is_used_by_the_code() -> None:
    folder = Path(interface.__file__).parent
    code = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "interface.py")
    for name, protocol in protocols().items():
        for member in members(protocol):
            assert f".{member}" in code, f"nothing uses {name}.{member}"


def test_the_fake_has_no_more_than_the_real_one() -> None:
    fake = vars(fake_tensorrt())
    for name, protocol in protocols().items():
        if isinstance(fake.get(name), type) and name in ("Builder", "OnnxParser", "Runtime"):
            extra = {one for one in vars(fake[name]) if not one.startswith("_")}
            assert extra - members(protocol) <= {"engine_host_code_allowed"}, name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pool", "pool_size"], True),
        (["pool"], False),
        (["pool_size", "pool"], False),
        (["pool", "size"], False),
        (["pool", "pool_size", "more"], False),
    ],
)
def test_this_test_can_fail(arguments: list[str], expected: bool, real: dict[str, Members]) -> None:
    documentation = real["IBuilderConfig"]["set_memory_pool_limit"]
    assert takes(documentation, "set_memory_pool_limit", arguments) is expected
