"""Reads finished runs: statistics, tables, pictures, curves. Does not depend on training."""
