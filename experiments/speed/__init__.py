"""What benchmark stands on: options, points to measure, child processes that measure them, and the table."""
