"""Saliency maps as arrays: what makes one, and the regions it marks."""
