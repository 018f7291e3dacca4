"""The explainer file: its outputs, its metadata, and its bytes, read without any package for it."""
