"""One small network in the form of every opset from 9 to 23: the same logits, the same gradient."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from helpers.running import outputs
from klieg.export.autodiff import add_gradient

FLOAT = onnx.TensorProto.FLOAT


class Writer:
    """Writes operators in the form that one opset has for them."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(
        self, op_type: str, inputs: list[str], outputs: list[str], **attributes: object
    ) -> None:
        """Append a node."""
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(oh.make_node(op_type, inputs, outputs, name=name, **attributes))

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an initializer."""
        self.constants[name] = array
        return name

    def lists(self, op_type: str, x: str, y: str, since: int, /, **lists: list[int]) -> None:
        """Append an operator whose lists are attributes before an opset and inputs since then."""
        if self.opset < since:
            self.add(op_type, [x], [y], **lists)
            return
        names = [self.constant(f"{y}_{k}", np.array(v, np.int64)) for k, v in lists.items()]
        self.add(op_type, [x, *names], [y])

    def clip(self, x: str, y: str, low: float, high: float) -> None:
        if self.opset < 11:
            self.add("Clip", [x], [y], min=low, max=high)
            return
        limits = {"low": low, "high": high}
        names = [self.constant(f"{y}_{k}", np.array(v, np.float32)) for k, v in limits.items()]
        self.add("Clip", [x, *names], [y])

    def split(self, x: str, parts: list[str], sizes: list[int], axis: int) -> None:
        if self.opset < 13:
            self.add("Split", [x], parts, axis=axis, split=sizes)
        else:
            sizes_name = self.constant(f"{x}_sizes", np.array(sizes, np.int64))
            self.add("Split", [x, sizes_name], parts, axis=axis)

    def enlarge(self, x: str, y: str) -> None:
        scales = self.constant(f"{y}_scales", np.array([1, 1, 2, 2], np.float32))
        if self.opset < 10:
            self.add("Upsample", [x, scales], [y], mode="nearest")
        elif self.opset < 11:
            self.add("Resize", [x, scales], [y], mode="nearest")
        else:
            roi = self.constant("roi", np.zeros(0, np.float32)) if self.opset < 13 else ""
            self.add(
                "Resize",
                [x, roi, scales],
                [y],
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )

    def dropout(self, x: str, y: str) -> None:
        if self.opset < 12:
            self.add("Dropout", [x], [y], ratio=0.3)
        else:
            self.add("Dropout", [x, self.constant("ratio", np.array(0.3, np.float32))], [y])

    def mean(self, x: str, y: str, axes: list[int]) -> None:
        if self.opset < 18:
            self.add("ReduceMean", [x], [y], axes=axes, keepdims=1)
        else:
            name = self.constant(f"{y}_axes", np.array(axes, np.int64))
            self.add("ReduceMean", [x, name], [y], keepdims=1)

    def slice_channels(self, x: str, y: str) -> None:
        if self.opset < 10:
            self.add("Slice", [x], [y], starts=[1], ends=[5], axes=[1])
        else:
            limits = {"starts": [1], "ends": [5], "axes": [1]}
            names = [self.constant(f"{y}_{k}", np.array(v)) for k, v in limits.items()]
            self.add("Slice", [x, *names], [y])

    def pad(self, x: str, y: str) -> None:
        pads = [0, 0, 1, 0, 0, 0, 0, 1]
        if self.opset < 11:
            self.add("Pad", [x], [y], pads=pads, mode="constant", value=0.25)
        else:
            value = self.constant("fill", np.array(0.25, np.float32))
            self.add("Pad", [x, self.constant(f"{y}_pads", np.array(pads)), value], [y])


def network(opset: int, *, dynamic: bool = True) -> onnx.ModelProto:
    """Return image [batch, 3, height, width] -> logits [batch, 4] -> probabilities."""
    w = Writer(opset)
    generator = np.random.default_rng(0)
    for name, *shape in (
        ("w1", 6, 3, 3, 3),
        ("b1", 6),
        ("w2", 4, 4, 3, 3),
        ("scale", 6),
        ("bias", 6),
        ("mean", 6),
        ("head", 4, 4),
        ("head_bias", 4),
    ):
        w.constant(name, generator.standard_normal(shape).astype(np.float32) * 0.5)
    w.constant("variance", np.full(6, 0.7, np.float32))
    w.pad("image", "padded")
    w.add("Conv", ["padded", "w1", "b1"], ["c1"], strides=[2, 2])
    w.add("BatchNormalization", ["c1", "scale", "bias", "mean", "variance"], ["n1"], epsilon=0.01)
    w.clip("n1", "r1", 0.0, 6.0)
    w.add("MaxPool", ["r1"], ["p1"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    w.slice_channels("p1", "some")
    w.add("Conv", ["some", "w2"], ["c2"], pads=[1, 1, 1, 1])
    w.add("Relu", ["c2"], ["r2"])
    w.enlarge("r2", "large")
    w.add("AveragePool", ["large"], ["p2"], kernel_shape=[2, 2], strides=[2, 2])
    w.split("p2", ["first", "second"], [1, 3], 1)
    w.add("Concat", ["second", "first"], ["turned"], axis=1)
    w.mean("turned", "pooled", [2, 3])
    w.lists("Squeeze", "pooled", "squeezed", 13, axes=[2, 3])
    w.lists("Unsqueeze", "squeezed", "raised", 13, axes=[1])
    w.add("Flatten", ["raised"], ["flat"], axis=1)
    w.dropout("flat", "dropped")
    w.add("Gemm", ["dropped", "head", "head_bias"], ["logits"], transB=1)
    w.add("Softmax", ["logits"], ["probabilities"], axis=1)
    size: list[str | int] = ["height", "width"] if dynamic else [18, 14]
    graph = oh.make_graph(
        w.nodes,
        "network",
        [oh.make_tensor_value_info("image", FLOAT, ["batch", 3, *size])],
        [
            oh.make_tensor_value_info("logits", FLOAT, ["batch", 4]),
            oh.make_tensor_value_info("probabilities", FLOAT, ["batch", 4]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in w.constants.items()],
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset)])
    model.ir_version = min(model.ir_version, 10)
    onnx.checker.check_model(model, full_check=True)
    return model


def answers(model: onnx.ModelProto, score: str) -> dict[str, np.ndarray]:
    result = add_gradient(model, score=score, wrt="image")
    onnx.checker.check_model(result, full_check=True)
    assert [o.version for o in result.opset_import if not o.domain] == [18]
    image = np.random.default_rng(1).standard_normal((2, 3, 18, 14)).astype(np.float32)
    feeds = {"image": image, "target": np.array([1, -1])}
    return outputs(result, feeds, "logits", "probabilities", "gradient")


@pytest.mark.parametrize("opset", [o for o in range(9, 24) if o != 18])
@pytest.mark.parametrize(
    ("dynamic", "score"), [(True, "logits"), (True, "probabilities"), (False, "logits")]
)
def test_every_opset_gives_the_same(opset: int, dynamic: bool, score: str) -> None:
    want = answers(network(18, dynamic=dynamic), score)
    got = answers(network(opset, dynamic=dynamic), score)
    assert np.abs(want["gradient"]).max() > 1e-3
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=1e-6, err_msg=name)
