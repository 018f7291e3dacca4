from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klieg.errors import ExplainerFileError, UnsafeFileError
from klieg.model_file.onnx_file import TensorType, read_onnx

FLOAT = onnx.TensorProto.FLOAT


def tensor(name: str, *, external: bool = False) -> onnx.TensorProto:
    result = onnx.numpy_helper.from_array(np.ones(2, np.float32), name)
    if external:
        result.ClearField("raw_data")
        result.data_location = onnx.TensorProto.EXTERNAL
        result.external_data.add(key="location", value="../secret")
    return result


def model(
    *, initializer: onnx.TensorProto | None = None, node: onnx.NodeProto | None = None
) -> onnx.ModelProto:
    graph = oh.make_graph(
        [node or oh.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [
            oh.make_tensor_value_info("x", FLOAT, ["batch", 2, None]),
            oh.make_tensor_value_info("w", FLOAT, [2]),
        ],
        [oh.make_tensor_value_info("y", onnx.TensorProto.INT64, [])],
        [initializer or tensor("w")],
    )
    result = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)])
    oh.set_model_props(result, {"a": "1", "klieg.path": "../not/a/tensor"})
    return result


def test_facts_agree_with_the_onnx_package() -> None:
    facts = read_onnx(model().SerializeToString())
    assert facts.opset == 18
    assert facts.metadata == {"a": "1", "klieg.path": "../not/a/tensor"}
    assert facts.inputs == {"x": TensorType("float32", ("batch", 2, None))}
    assert facts.outputs == {"y": TensorType("int64", ())}
    assert facts.node_count == 1


def inside_graph(attribute: str) -> onnx.NodeProto:
    inner = oh.make_graph([], "inner", [], [], [tensor("hidden", external=True)])
    return oh.make_node("If", ["x"], ["y"], **{attribute: inner})


def sparse() -> onnx.SparseTensorProto:
    result = onnx.SparseTensorProto()
    result.values.CopyFrom(tensor("values", external=True))
    return result


HIDING_PLACES = {
    "initializer": lambda: model(initializer=tensor("w", external=True)),
    "attribute": lambda: model(
        node=oh.make_node("Constant", [], ["y"], value=tensor("c", external=True))
    ),
    "list attribute": lambda: model(
        node=oh.make_node("X", [], ["y"], values=[tensor("c", external=True)])
    ),
    "sub-graph": lambda: model(node=inside_graph("then_branch")),
    "sparse attribute": lambda: model(node=oh.make_node("X", [], ["y"], sparse_value=sparse())),
}


@pytest.mark.parametrize("place", [*HIDING_PLACES, "sparse initializer", "function"])
def test_external_data_is_refused_wherever_it_hides(place: str) -> None:
    if place == "sparse initializer":
        proto = model()
        proto.graph.sparse_initializer.append(sparse())
    elif place == "function":
        proto = model()
        proto.functions.append(
            oh.make_function(
                "local",
                "f",
                [],
                ["y"],
                [oh.make_node("Constant", [], ["y"], value=tensor("c", external=True))],
                [oh.make_opsetid("", 18)],
            )
        )
    else:
        proto = HIDING_PLACES[place]()
    with pytest.raises(UnsafeFileError, match="outside the file"):
        read_onnx(proto.SerializeToString())


def test_location_without_flag_is_refused() -> None:
    proto = model()
    proto.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(UnsafeFileError, match="/etc/passwd"):
        read_onnx(proto.SerializeToString())


@pytest.mark.parametrize(
    "data",
    [b"", b"hello, I am a text file", b"\xff\xd8\xff\xe0" + bytes(50), pickle.dumps({"a": 1})],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ExplainerFileError):
        read_onnx(data)


def test_hostile_nesting_is_refused() -> None:
    # length-delimited messages inside one another: attribute (5) > graph (6) > node (1) > ...
    body = b""
    for _ in range(300):
        for field in (6, 5, 1):
            length, number = len(body), b""
            while length > 0x7F:
                number += bytes([length & 0x7F | 0x80])
                length >>= 7
            body = bytes([field << 3 | 2]) + number + bytes([length]) + body
    proto = onnx.ModelProto(opset_import=[oh.make_opsetid("", 18)]).SerializeToString()
    size, number = len(body), b""
    while size > 0x7F:
        number += bytes([size & 0x7F | 0x80])
        size >>= 7
    with pytest.raises(ExplainerFileError, match="nested"):
        read_onnx(proto + bytes([7 << 3 | 2]) + number + bytes([size]) + body)


def test_repeated_metadata_key_is_refused() -> None:
    proto = model()
    proto.metadata_props.add(key="a", value="2")
    with pytest.raises(ExplainerFileError, match="twice"):
        read_onnx(proto.SerializeToString())


BYTES = model().SerializeToString()


def test_every_truncation_is_facts_or_a_typed_error() -> None:
    refused = 0
    for length in range(len(BYTES)):
        try:
            read_onnx(BYTES[:length])
        except ExplainerFileError:
            refused += 1
    assert refused > len(BYTES) * 0.8


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1))
def test_flipped_bytes_are_facts_or_a_typed_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(BYTES)
    for place, value in changes:
        data[place] = value
    with contextlib.suppress(ExplainerFileError):
        read_onnx(bytes(data))


def test_real_explainer_is_read_as_the_onnx_package_reads_it(small_explainer: Path) -> None:
    facts = read_onnx(small_explainer.read_bytes())
    proto = onnx.load(small_explainer)
    assert list(facts.inputs) == [i.name for i in proto.graph.input] == ["image", "target"]
    assert list(facts.outputs) == [o.name for o in proto.graph.output]
    assert facts.node_count == len(proto.graph.node)
    assert facts.metadata == {entry.key: entry.value for entry in proto.metadata_props}
