"""Looks into a bare ONNX classifier before it is exported."""
