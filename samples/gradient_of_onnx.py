"""Append a gradient to any ONNX graph: no explainer, no torch, only the differentiator.

python samples/gradient_of_onnx.py

Needs: pip install 'klieg[export]'
"""

import numpy as np
import onnx
import onnx.helper
import onnxruntime

from klieg.export.autodiff import add_gradient


def main() -> None:
    """Differentiate logits = relu(x) W and compare with the formula."""
    weight = np.array([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0]], dtype=np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Relu", ["x"], ["hidden"]),
            onnx.helper.make_node("MatMul", ["hidden", "weight"], ["logits"]),
        ],
        "example",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])

    with_gradient = add_gradient(model, score="logits", wrt="x")

    session = onnxruntime.InferenceSession(with_gradient.SerializeToString())
    x = np.array([[1.0, -1.0, 2.0], [0.5, 0.5, -0.5]], dtype=np.float32)
    feeds = {"x": x, "target": np.array([1, -1])}  # -1: the predicted class
    logits, gradient = session.run(["logits", "gradient"], feeds)
    classes = [1, int(logits[1].argmax())]
    np.testing.assert_array_equal(gradient, (x > 0) * weight.T[classes])
    print("d logit / d x =")
    print(gradient)


if __name__ == "__main__":
    main()
