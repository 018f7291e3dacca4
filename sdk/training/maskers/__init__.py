"""Maskers that come with the package, each with the config, log and scores of its run."""
