"""Objectives in other people's agents."""
