"""Options of a run, presets of them, and the TOML file that holds them."""
