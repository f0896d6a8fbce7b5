"""Reads finished runs: statistics, tables, pictures, curves. Knows nothing of training."""
