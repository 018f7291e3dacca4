"""Comparisons of an explainer with its original: torch, finite differences, float64."""
