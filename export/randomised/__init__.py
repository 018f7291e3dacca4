"""Explainer files with re-initialised weights, for sanity checks."""
