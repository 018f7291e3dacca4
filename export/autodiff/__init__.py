"""Reverse-mode differentiation of ONNX graphs: the gradient as ordinary forward operators."""

from klieg.export.autodiff.gradient import add_gradient as add_gradient

__all__ = ["add_gradient"]
