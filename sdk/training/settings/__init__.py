"""What a run is told: options, presets, and the TOML file they come from."""
