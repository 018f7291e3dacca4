"""Files and tables that survive a crash."""
