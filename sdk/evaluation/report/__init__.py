"""Scores as tables, plots and examples."""
