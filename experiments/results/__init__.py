"""Reads finished runs: statistics, tables, curves. Knows nothing of training."""
