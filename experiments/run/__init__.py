"""Runs: configuration, agent, data, checkpoint, log and evaluation, and one driver for all kinds of runs."""
