"""klieg inspect on bare classifiers and explainers, with and without the workbench."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from click.testing import CliRunner, Result

from klieg.cli import main

FLOAT = onnx.TensorProto.FLOAT


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def classifier(path: Path, *, blocks: int = 1, operator: str = "Relu") -> Path:
    """Write a classifier of `blocks` convolutions 1 x 1, each with an operator behind it."""
    nodes, last = [], "x"
    for block in range(blocks):
        nodes.append(oh.make_node("Conv", [last, "kernel"], [f"conv_{block}"]))
        last = f"a_name_that_is_too_long_for_the_line_of_a_terminal/block_{block}"
        nodes.append(oh.make_node(operator, [f"conv_{block}"], [last], name=f"node_{block}"))
    nodes += [
        oh.make_node("GlobalAveragePool", [last], ["pooled"]),
        oh.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = oh.make_graph(
        nodes,
        "classifier",
        [oh.make_tensor_value_info("x", FLOAT, ["batch", 3, "height", "width"])],
        [oh.make_tensor_value_info("logits", FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "kernel")],
    )
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_bare_classifier(tmp_path: Path) -> None:
    result = inspect(classifier(tmp_path / "net.onnx", blocks=9))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert "graph       opset 18, 20 nodes" in lines
    assert "in x        float32 [batch, 3, height, width]  <- the image" in lines
    assert "out logits  float32 [batch, 3]" in lines
    assert "score       logits, 3 classes" in lines
    assert "  ... 12 more of 224 x 224" in lines
    assert lines[-1] == "every operator between the image and the score has a gradient rule"
    starred = [line for line in lines if line.startswith("*")]
    assert len(starred) == 1
    assert starred[0].startswith("* [1, 3, 224, 224]  Relu  a_name")
    assert starred[0].endswith("block_8")
    measured = [line for line in lines if line.startswith(("*", "  ["))]
    assert max(map(len, measured)) <= 80


def test_every_feature_map_in_full(tmp_path: Path) -> None:
    result = inspect(classifier(tmp_path / "net.onnx", blocks=9), "--all")
    assert "more of" not in result.output
    for block in range(9):
        assert f"line_of_a_terminal/block_{block}" in result.output


def test_what_stands_in_the_way_is_said(tmp_path: Path) -> None:
    model = onnx.load(classifier(tmp_path / "net.onnx", operator="RandomNormalLike"))
    onnx.save(model, tmp_path / "net.onnx")
    result = inspect(tmp_path / "net.onnx")
    assert result.exit_code == 0, "the layer lies behind it"
    assert "before the default layer: RandomNormalLike, node 'node_0'" in result.output

    model.graph.node[-1].CopyFrom(oh.make_node("Shape", ["pooled"], ["logits"]))
    model.graph.output[0].CopyFrom(oh.make_tensor_value_info("logits", onnx.TensorProto.INT64, [4]))
    onnx.save(model, tmp_path / "net.onnx")
    result = inspect(tmp_path / "net.onnx")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "cannot be exported as it is: " in result.output
    assert "Conv" in result.output


@pytest.mark.parametrize("content", [b"", b"no onnx file", b"\x08\x07"])
def test_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    for options in ([], ["--tensorrt"]):
        result = inspect(path, *options)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert result.output.startswith("Error: ")


def test_tensorrt_lint(tmp_path: Path, small_explainer: Path) -> None:
    clean = inspect("--tensorrt", small_explainer)
    assert clean.exit_code == 0
    assert clean.output.startswith("TensorRT: nothing on the denylist among ")
    refused = inspect("--tensorrt", classifier(tmp_path / "net.onnx", blocks=2, operator="Det"))
    assert refused.exit_code == 1
    assert refused.output.splitlines() == [
        "node_0: Det: TensorRT has no such operator",
        "node_1: Det: TensorRT has no such operator",
        "TensorRT: 2 on the denylist among 6 nodes",
    ]


WITHOUT_ONNX = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("onnx", "onnx_ir", "torch"):
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Wall())
from klieg.cli import main
main(["inspect", *sys.argv[1:]])
"""


def without_onnx(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_ONNX, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_masking_model(small_explainer_all: Path, small_explainer: Path) -> None:
    lines = inspect(small_explainer_all).output.splitlines()
    assert "masker                  a small one" in lines
    assert "out mask                float32 [batch, 1, height, width]" in lines
    assert "mask" not in inspect(small_explainer).output


def test_explainers_are_shown_without_onnx(small_explainer: Path) -> None:
    done = without_onnx(small_explainer)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^layer +features$", done.stdout, re.MULTILINE)


def test_bare_classifiers_need_onnx(tmp_path: Path) -> None:
    for options in ([], ["--tensorrt"]):
        done = without_onnx(classifier(tmp_path / "net.onnx"), *options)
        assert done.returncode == 1
        assert "pip install 'klieg[export]'" in done.stderr
        assert "Traceback" not in done.stderr
