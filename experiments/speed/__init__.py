"""The code behind benchmark: options, points to measure, child processes that measure them, and the table."""
