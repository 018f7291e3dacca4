"""Classifiers as they come: torch modules and ONNX models, their input, layer and score."""
