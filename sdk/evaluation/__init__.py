"""Metrics of saliency maps against objects that people marked."""
