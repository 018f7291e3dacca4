"""Explanation methods: from passes through the classifier to a raw map per image."""
