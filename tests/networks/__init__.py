"""Published architectures, measured: PYTHONPATH=tests python -m networks.table docs/networks.md."""
