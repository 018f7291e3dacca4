"""Inspection of bare ONNX classifiers, and of graphs for TensorRT."""
