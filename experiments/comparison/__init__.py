"""What offline_report stands on: finished offline runs, compared with and without an objective."""
