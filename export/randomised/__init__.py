"""Explainer files with weights drawn anew, for sanity checks."""
