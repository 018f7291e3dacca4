"""Metrics, one idea per file: functions of maps and of what people marked."""
