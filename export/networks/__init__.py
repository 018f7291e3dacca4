"""Published architectures, measured: python -m klieg.export.networks.table docs/networks.md."""
