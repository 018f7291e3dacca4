"""Files that survive a crash: complete or absent, and bound to one configuration."""
