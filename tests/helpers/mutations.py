"""A small classifier as ONNX, and ways to break its file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper as oh

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def classifier() -> onnx.ModelProto:
    """Return image [batch, 3, height, width] -> feature maps -> logits [batch, 4]."""
    generator = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(
            generator.standard_normal(shape).astype(np.float32) * 0.5, name
        )

    constants = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "starts": np.array([1]),
        "ends": np.array([2**31 - 1]),
        "axes": np.array([1]),
        "low": np.array(0, np.float32),
        "high": np.array(6, np.float32),
        "variance": np.full(6, 0.8, np.float32),
    }
    node = oh.make_node
    graph = oh.make_graph(
        [
            node("Pad", ["image", "pads"], ["padded"], name="pad"),
            node("Conv", ["padded", "w1", "b1"], ["c1"], name="conv1", strides=[2, 2]),
            node(
                "BatchNormalization", ["c1", "scale", "bias", "mean", "variance"], ["n1"], name="bn"
            ),
            node("Clip", ["n1", "low", "high"], ["r1"], name="clip"),
            node("MaxPool", ["r1"], ["p1"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1], group=2),
            node("Add", ["c2", "p1"], ["sum"], name="add"),
            node("Relu", ["sum"], ["features"], name="relu"),
            node("GlobalAveragePool", ["features"], ["pooled"], name="gap"),
            node("Flatten", ["pooled"], ["flat"], name="flatten"),
            node("Slice", ["flat", "starts", "ends", "axes"], ["part"], name="slice"),
            node("Gemm", ["part", "w3", "b3"], ["logits"], name="gemm", transB=1),
        ],
        "classifier",
        [oh.make_tensor_value_info("image", FLOAT, ["batch", 3, "height", "width"])],
        [oh.make_tensor_value_info("logits", FLOAT, ["batch", 4])],
        [
            weight("w1", 6, 3, 3, 3),
            weight("b1", 6),
            weight("w2", 6, 3, 3, 3),
            weight("scale", 6),
            weight("bias", 6),
            weight("mean", 6),
            weight("w3", 4, 5),
            weight("b3", 4),
            *(onnx.numpy_helper.from_array(value, name) for name, value in constants.items()),
        ],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=8)


def mutated_bytes(data: bytes, seed: int) -> bytes:
    """Flip, cut, repeat or exchange bytes."""
    generator = np.random.default_rng(seed)
    way = seed % 5
    changed = bytearray(data)
    place = int(generator.integers(len(data)))
    length = int(generator.integers(1, 64))
    if way == 0:  # the structure stands mostly at the beginning, weights behind it
        for _ in range(int(generator.integers(1, 5))):
            changed[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
    elif way == 1:
        for _ in range(int(generator.integers(1, 5))):
            changed[int(generator.integers(min(1500, len(data))))] = int(generator.integers(256))
    elif way == 2:
        return data[:place]
    elif way == 3:
        changed[place:place] = data[place : place + length]
    else:
        del changed[place : place + length]
    return bytes(changed)


def mutated_graph(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Change one or two things that a parser accepts but that make no sense."""
    generator = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(1 + seed % 2):
        CHANGES[int(generator.integers(len(CHANGES)))](copy, generator)
    return copy


def _node(model: onnx.ModelProto, generator: np.random.Generator) -> onnx.NodeProto:
    nodes = model.graph.node or [onnx.NodeProto()]
    return nodes[int(generator.integers(len(nodes)))]


def _tensor(model: onnx.ModelProto, generator: np.random.Generator) -> onnx.TensorProto:
    tensors = model.graph.initializer or [onnx.TensorProto()]
    return tensors[int(generator.integers(len(tensors)))]


def _names(model: onnx.ModelProto) -> list[str]:
    names = [name for node in model.graph.node for name in node.output]
    return [*names, *(tensor.name for tensor in model.graph.initializer), "image", "", "nowhere"]


def _other_input(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _node(model, generator)
    if node.input:
        names = _names(model)  # a later one makes a cycle
        chosen = names[int(generator.integers(len(names)))]
        node.input[int(generator.integers(len(node.input)))] = chosen


def _other_output(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _node(model, generator)
    names = _names(model)
    if node.output:
        node.output[0] = names[int(generator.integers(len(names)))]


def _fewer_inputs(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _node(model, generator)
    del node.input[int(generator.integers(len(node.input) + 1)) :]


def _other_operator(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    others = ["Conv", "Relu", "Reshape", "Concat", "If", "Loop", "Dropout", "Split", "Nonsense", ""]
    _node(model, generator).op_type = others[int(generator.integers(len(others)))]


def _other_attribute(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    node = _node(model, generator)
    values: list[object] = [0, -1, 2**40, 1.5, "text", [], [0, 0], [-1, -1], [2**40] * 2, [1] * 9]
    name = node.attribute[0].name if node.attribute else "axis"
    del node.attribute[:1]
    value = values[int(generator.integers(len(values)))]
    if value == []:
        node.attribute.append(oh.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS))
    else:
        node.attribute.append(oh.make_attribute(name, value))


def _other_dims(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    tensor = _tensor(model, generator)
    way = int(generator.integers(5))
    if way == 0:
        tensor.dims.append(int(generator.integers(-2, 4)))
    elif tensor.dims and way == 1:
        tensor.dims[0] = -1
    elif tensor.dims and way == 2:
        tensor.dims[0] = 2**62
    elif tensor.dims and way == 3:
        del tensor.dims[-1]
    elif tensor.dims:
        tensor.dims[0] = 0


def _other_type(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    _tensor(model, generator).data_type = int(generator.integers(-1, 30))


def _no_tensor(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    place = int(generator.integers(len(model.graph.initializer) + 1))
    del model.graph.initializer[place : place + 1]


def _no_node(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    place = int(generator.integers(len(model.graph.node) + 1))
    del model.graph.node[place : place + 1]


def _twice(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    model.graph.node.append(_node(model, generator))


def _other_order(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    nodes = [model.graph.node[int(i)] for i in generator.permutation(len(model.graph.node))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _other_interface(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    values = [*model.graph.input, *model.graph.output] or [onnx.ValueInfoProto()]
    value = values[int(generator.integers(len(values)))]
    way = int(generator.integers(6))
    tensor = value.type.tensor_type
    if way == 0:
        tensor.elem_type = int(generator.integers(-1, 30))
    elif way == 1:
        value.ClearField("type")
    elif way == 2:
        tensor.ClearField("shape")
    elif way == 3:
        tensor.shape.dim.add().dim_value = int(generator.integers(-3, 4))
    elif way == 4:
        value.name = ["", "nowhere", "w1", "features"][int(generator.integers(4))]
    elif tensor.shape.dim:
        tensor.shape.dim[0].dim_value = [-1, 0, 2**62][int(generator.integers(3))]


def _other_opset(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    versions = [-1, 0, 1, 6, 8, 10, 24, 99, 2**40]
    way = int(generator.integers(4))
    if way == 0:
        del model.opset_import[:]
    elif way == 1:
        model.opset_import.add().version = 18
    elif way == 2:
        model.ir_version = 10**6
    elif model.opset_import:
        model.opset_import[0].version = versions[int(generator.integers(len(versions)))]


def _no_graph(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    parts = ["node", "input", "output", "initializer"]
    way = int(generator.integers(len(parts) + 1))
    if way == len(parts):
        model.ClearField("graph")
    else:
        model.graph.ClearField(parts[way])


def _function(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    """A function that calls itself, or that takes the place of an operator."""
    name = ["Own", "Relu"][int(generator.integers(2))]
    function = oh.make_function(
        "own",
        name,
        ["x"],
        ["y"],
        [oh.make_node(name, ["x"], ["y"], domain="own")],
        [oh.make_opsetid("own", 1)],
    )
    model.functions.append(function)
    model.opset_import.append(oh.make_opsetid("own", 1))
    node = _node(model, generator)
    node.domain, node.op_type = "own", name


Change = Callable[[onnx.ModelProto, np.random.Generator], None]
CHANGES: list[Change] = [
    _other_input,
    _other_output,
    _fewer_inputs,
    _other_operator,
    _other_attribute,
    _other_dims,
    _other_type,
    _no_tensor,
    _no_node,
    _twice,
    _other_order,
    _other_interface,
    _other_opset,
    _no_graph,
    _function,
]
